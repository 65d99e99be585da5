"""Find the first NaN or infinite value in collected steps."""

import numpy as np

from pgjax.gym.results import EnvError


def find_nonfinite(
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    next_obs: np.ndarray | None = None,
    *,
    slot: int | None = None,
) -> tuple[int, EnvError] | None:
    """Find the earliest value of T steps that is NaN or infinite.

    Args:
      obs: [T, slots, d], or [T + 1, slots, d] if it includes the successor of the last step.
      action: [T, slots, ...], raw.
      reward: [T, slots].
      next_obs: [T, slots, d]; None if `obs` includes every successor.
      slot: the slot that all steps are from, if the arrays have no axis of slots.

    Returns:
      (the number of steps made before it, the error), or None if every value is finite.
    """
    # Causal order decides ties within a step.
    fields = [("observation", obs, 0, 1), ("action", action, 0, 1), ("reward", reward, 1, 0)]
    if next_obs is not None:
        fields.insert(1, ("observation", next_obs, 1, 1))
    found: tuple[int, EnvError] | None = None
    for name, values, offset, delay in fields:
        if values.dtype.kind in "biu":
            continue
        finite = np.isfinite(values)
        if finite.all():
            continue
        index = np.argwhere(~finite)[0].tolist()
        num_steps = index[0] + offset
        reason = f"the {name} is {values[tuple(index)]}, not a finite number"
        error = EnvError(reason, index[1] if slot is None else slot, delay)
        if name == "action":
            error.advice = "the policy has diverged, lower the learning rate"
        if found is None or num_steps + delay < found[0] + found[1].delay:
            found = num_steps, error
    return found
