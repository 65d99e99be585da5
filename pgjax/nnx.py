"""Policies and critics written in Flax NNX."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from pgjax.errors import ConfigError
from pgjax.types import type_name


def from_nnx(module: nnx.Module | Callable[..., nnx.Module]) -> nn.Module:
    """Make a policy or critic from a module of Flax NNX.

    Use it wherever a policy, a critic or a torso is needed: `init` and `apply` are pure functions,
    which leave the NNX module as it is. Its Params become the parameters; the module must not
    depend on other state, such as the batch statistics of BatchNorm or the random numbers of
    Dropout.

    Args:
      module: a class, or a function with the argument `rngs`, that returns a new module: `init`
        draws its parameters from the key, so that they depend on the seed of a run. Or a module,
        for instance a pretrained one: `init` returns its parameters, whatever the key.

    Returns:
      A linen module, built on `flax.nnx.bridge.ToLinen`. Its parameters are those of the module,
      by their names, under the name "nnx".

    Raises:
      ConfigError: if it is neither.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> from flax import nnx
      >>> class Policy(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.logits = nnx.Linear(4, 2, rngs=rngs)
      ...
      ...     def __call__(self, obs):
      ...         return pgjax.distributions.Categorical(self.logits(obs))
      >>> policy = pgjax.from_nnx(Policy)
      >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
      >>> policy.apply(params, jnp.zeros((3, 4))).logits.shape
      (3, 2)
    """
    if isinstance(module, nnx.Module):
        # A copy for each call, which may trace it.
        copy = functools.partial(nnx.merge, *nnx.split(module), copy=True)
        return _FromNNX(nnx.bridge.ToLinen(copy, skip_rng=True))
    if not callable(module):
        raise ConfigError(
            "from_nnx takes a module of Flax NNX or a function of rngs that returns one, got "
            f"{type_name(module)}"
        )
    return _FromNNX(nnx.bridge.ToLinen(module))


class _FromNNX(nn.Module):
    """Keeps the variables of a ToLinen in one parameter, apart from all others.

    ToLinen alone takes every collection for its own, also that of the critic.
    """

    bridge: nnx.bridge.ToLinen

    @nn.compact
    def __call__(self, obs: jax.Array) -> Any:
        bridge = self.bridge.clone(parent=None)

        def init(key: jax.Array) -> Any:
            return bridge.init(key, obs)["params"]

        return bridge.apply({"params": self.param("nnx", init)}, obs)
