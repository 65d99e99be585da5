"""REINFORCE without and with a critic, PPO, NPG, and rollouts for each, shared by tests."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from conftest import make_rollout

import pgjax
from pgjax import advantages

OBS = np.zeros(4, np.float32)
KINDS = ["softmax", "critic", "ppo", pytest.param("npg", marks=pytest.mark.slow)]


def gaussian_actions(rng):
    return lambda shape: rng.normal(size=(*shape, 2)).astype(np.float32)


def plain():
    return pgjax.reinforce(pgjax.SoftmaxPolicy(2, (8,)), optax.adam(0.01))


def with_critic(**options):
    return pgjax.reinforce(
        pgjax.GaussianPolicy(2, (8,)),
        optax.adam(0.01),
        critic=pgjax.ValueNetwork((8,)),
        estimator=advantages.normalized(advantages.gae(0.9, 0.9)),
        entropy_coef=0.01,
        **options,
    )


@functools.cache
def plain_ppo(**options):
    defaults = dict(num_epochs=3, minibatch_size=10, entropy_coef=0.01, value_clip=0.5)
    defaults["critic"] = pgjax.ValueNetwork((8,))
    return pgjax.ppo(pgjax.GaussianPolicy(2, (8,)), optax.adam(0.01), **{**defaults, **options})


def plain_npg():
    return pgjax.npg(
        pgjax.GaussianPolicy(2, (8,)),
        critic=pgjax.ValueNetwork((8,)),
        critic_optimizer=optax.adam(0.01),
        cg_steps=3,
        num_epochs=2,
        minibatch_size=10,
        line_search=True,
    )


class AlgorithmCase(NamedTuple):
    algorithm: pgjax.Algorithm
    state: pgjax.TrainState
    rollout: Any  # (rng, lengths, **options of make_rollout) -> Rollout


@functools.cache
def algorithm_case(kind):
    makers = {"softmax": plain, "critic": with_critic, "ppo": plain_ppo, "npg": plain_npg}
    algorithm = makers[kind]()

    def rollout(rng, lengths, **options):
        action = None if kind == "softmax" else gaussian_actions(rng)
        return make_rollout(rng, lengths, action=action, **options)

    return AlgorithmCase(algorithm, algorithm.init(jax.random.key(0), OBS), rollout)
