"""Export a run: its TrainState for Orbax, or its metrics as CSV."""

import csv
import io
from pathlib import Path
from typing import Any, Literal

import flax.serialization
import jax

from pgjax.config.settings import EnvSource
from pgjax.errors import ConfigError, RunError
from pgjax.runs import store
from pgjax.runs.checkpoints import CheckpointName, with_key_data, with_typed_key
from pgjax.runs.folder import absolute, load_config, read_lines, seed_folders
from pgjax.runs.run import RunData, RunLike, as_run, run_path
from pgjax.types import TrainState


def export(
    run: RunLike,
    out: Path | str | None = None,
    *,
    format: Literal["orbax", "csv"] = "orbax",
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> Path:
    """Write a run in a format that other programs read.

    Use it to load trained parameters, or to analyse metrics, in a program without pgjax.

    Args:
      run: a run or its folder; for "csv" also the folder of several seeds, which get a column
        `seed`.
      out: the folder or file to write; by default `orbax` or `metrics.csv` in the run folder.
      format: "orbax" writes the TrainState (see `pgjax.runs.to_orbax`), "csv" the metrics, a line
        per update.
      checkpoint, allow_env_import, env: as for `pgjax.load`; "last" for the state that a Run has.

    Returns:
      The path written.

    Raises:
      ConfigError: for another format.
      RunError: if `out` cannot be written, or is a folder that exists.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "run"
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> pgjax.export(run).name, pgjax.export(run, format="csv").name
      ('orbax', 'metrics.csv')
    """
    if format == "csv":
        return _to_csv(run_path(run), out)
    if format != "orbax":
        raise ConfigError(f'format must be "orbax" or "csv", got {format!r}')
    run = as_run(run, checkpoint=checkpoint, allow_env_import=allow_env_import, env=env)
    return to_orbax(run, run.path / format if out is None else absolute(out))


def _to_csv(path: Path, out: Path | str | None) -> Path:
    out = path / "metrics.csv" if out is None else absolute(out)
    folders = seed_folders(path)
    try:
        rows = [
            {**({"seed": load_config(folder).seed} if folders else {}), **row}
            for folder in folders or [path]
            for row in read_lines(folder / "metrics.jsonl")
        ]
    except (OSError, ValueError) as e:
        raise RunError(f"{path} has no readable metrics ({e}): choose a run folder") from None
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        store.replace(out, text.getvalue().encode())
    except OSError as e:
        raise RunError(f"cannot write {out} ({e}): choose another --out") from None
    return out


def to_orbax(run: RunData | TrainState, out: Path | str) -> Path:
    """Write a run's TrainState to a folder that Orbax's StandardCheckpointer reads.

    Use it with a loaded run, or with a TrainState of your own loop; `pgjax.export` also accepts the
    folder of a run. The written folder
    holds nested dicts: params (Flax's names), opt_state (the names that
    flax.serialization.to_state_dict gives), key (its uint32 data) and step.

    Args:
      run: the run, or a TrainState.
      out: the folder to write, which must not exist.

    Returns:
      `out`.

    Raises:
      RunError: if `out` exists or cannot be written.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> pgjax.runs.to_orbax(pgjax.train(config), path / "trained").name
      'trained'
    """
    import orbax.checkpoint as ocp

    out = absolute(out)
    state = run.state if isinstance(run, RunData) else run
    if out.exists() or out.is_symlink():
        raise RunError(f"{out} exists: choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)  # Orbax hangs if it cannot make the folder
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(out, _tree(state))
    except (OSError, ValueError) as e:
        raise RunError(f"Orbax cannot write {out} ({e}): choose another --out") from None
    return out


def from_orbax(path: Path | str, like: TrainState) -> TrainState:
    """Read a TrainState that `to_orbax` or `pgjax.export` wrote.

    Use it to get the state back without the run folder; Orbax alone reads it as a dict.

    Args:
      path: the folder.
      like: a state with the same shapes and dtypes, such as `algorithm.init(key, obs)`.

    Returns:
      The TrainState, bit for bit.

    Raises:
      RunError: if the folder does not hold such a state.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> out = pgjax.runs.to_orbax(run, path / "trained")
      >>> int(pgjax.runs.from_orbax(out, run.state).step)
      1
    """
    import orbax.checkpoint as ocp

    path = absolute(path)
    tree = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            # Compare first: a failed restore leaves Orbax threads running.
            there = _shapes(checkpointer.metadata(path).item_metadata.tree)
            if there != _shapes(tree):
                raise ValueError("the names, shapes or dtypes of its arrays differ")
            found = checkpointer.restore(path, tree)
    except (OSError, ValueError, KeyError, AttributeError) as e:
        raise RunError(
            f"{path} does not hold a matching TrainState ({e}): check the path, and pass a `like` "
            "made with the settings of the exported run"
        ) from None
    state = flax.serialization.from_state_dict(with_key_data(like), found)
    return with_typed_key(state)


def _shapes(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (tuple(x.shape), str(x.dtype)) for path, x in leaves}


def _tree(state: TrainState) -> Any:
    return flax.serialization.to_state_dict(with_key_data(state))
