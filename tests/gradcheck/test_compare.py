"""Every estimator has its documented expectation, and planted bugs are found."""

import functools
import io
import json
from math import comb

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import pgjax
from pgjax import advantages, losses
from pgjax.cli import commands
from pgjax.cli.app import main
from pgjax.envs import tabular
from pgjax.gradcheck import compare
from pgjax.gradcheck.cases import GAMMA
from pgjax.types import segment_ends, zero_padding

NPG = "layers: npg"
CASES = {f"{c.task.name}: {c.name}{', V' * c.critic}": c for c in compare.CASES}


UNBIASED = {
    "layers: gamma^t reward_to_go",
    "layers: gamma^t leave_one_out",
    "layers: gamma^t reward_to_go, V",
    "layers: gamma^t gae(1), V",
    "clipped: reward_to_go",
    NPG,
}
# Some of each kind. The fast tests compile their programs alone, the slow ones those of all.
FAST = (
    "layers: gamma^t reward_to_go", "layers: gamma^t reward_to_go, V",
    "layers: gamma^t gae(0.5), V", "layers: normalized", "clipped: reward_to_go",
    "layers: ppo, 1st step", "layers: ppo, later step",
)  # fmt: skip
SLOW = [name for name in [*CASES, NPG] if name not in FAST]


@functools.cache
def rows():
    return dict(zip([*CASES, NPG], compare.check(), strict=True))


@functools.cache
def fast_rows():
    return dict(zip(FAST, compare.check(CASES[name] for name in FAST), strict=True))


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_each_estimator_has_its_documented_expectation(name):
    row = (fast_rows() if name in FAST else rows())[name]
    assert row.error < 1e-12
    assert row.ok
    assert row.variance > 0 or name == NPG
    assert (row.bias < 1e-10) == (name in UNBIASED)


@pytest.mark.slow
def test_which_are_unbiased():
    unbiased = {name for name, row in rows().items() if row.bias < 1e-10}
    assert unbiased == UNBIASED
    bias = [rows()[f"layers: gamma^t gae({x}), V"].bias for x in ("1", "0.95", "0.5", "0")]
    assert bias == sorted(bias)
    assert all(row.bias > 0.01 for name, row in rows().items() if name not in unbiased)
    assert all(row.cosine <= 1 + 1e-12 for row in rows().values())


def deferred(*rows):
    return lambda: [lambda row=row: row for row in rows]


def test_the_command_prints_a_table_a_verdict_and_lines(capsys, monkeypatch):
    monkeypatch.setattr(compare, "deferred_rows", deferred(*fast_rows().values()))
    main(["gradcheck"])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    assert sum(line.startswith("layers") for line in lines) == 6
    assert "A bias is expected and no error" in " ".join(lines)
    assert lines[-1] == "all 7 expectations match their documentation"
    main(["gradcheck", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found) == len(FAST)
    assert all(row["ok"] for row in found)
    row = next(iter(fast_rows().values()))
    wrong = row._replace(error=float("nan"), estimator="mine")
    monkeypatch.setattr(compare, "deferred_rows", deferred(row, wrong))
    with pytest.raises(SystemExit) as e:
        main(["gradcheck"])
    assert e.value.code == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert out.splitlines()[-1] == "1 of 2 expectations do not match: layers mine"


def test_the_command_shows_progress_in_a_terminal_only(monkeypatch):
    row = next(iter(fast_rows().values()))
    monkeypatch.setattr(compare, "deferred_rows", deferred(row, row))
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=80)
        monkeypatch.setattr(commands, "make_console", lambda *, quiet, console=console: console)
        main(["gradcheck"])
        assert ("expectations computed" in out.getvalue()) == terminal


def test_rows_can_be_computed_one_by_one():
    names = FAST[:1]
    [row] = compare.deferred_rows(CASES[name] for name in names)
    assert row() == fast_rows()[names[0]]
    assert jnp.zeros(1).dtype == jnp.float32  # float64 only while a row is computed
    assert len(compare.deferred_rows()) == len(compare.CASES) + 1
    own = compare.deferred_rows(make=pgjax.reinforce)
    assert len(own) == len(compare.CASES) + 1
    others = compare.deferred_rows(make=lambda *args, **kwargs: pgjax.reinforce(*args, **kwargs))
    assert len(others) == sum(case.make is None for case in compare.CASES)


def clip_both_ways(log_prob, old_log_prob, advantage, clip):
    """Without the minimum, which keeps the gradient where a ratio went the wrong way."""
    return -advantage * jnp.clip(jnp.exp(log_prob - old_log_prob), 1 - clip, 1 + clip)


@pytest.mark.slow
def test_a_clip_without_the_minimum_is_found(monkeypatch):
    monkeypatch.setattr(losses, "ppo_clip_loss", clip_both_ways)
    [row] = compare.check([CASES["layers: ppo, later step"]])
    assert not row.ok


# --- bugs that are easily written ---


def changed_returns(change):
    """reward_to_go with a bug: `change` is a function (rollout, returns) -> returns."""

    def estimate(rollout, value=None, next_value=None):
        return change(zero_padding(rollout), advantages.reward_to_go(GAMMA)(rollout))

    return estimate


def whole_return(rollout, returns):
    return jnp.where(rollout.weight > 0, jnp.broadcast_to(returns[:1], returns.shape), 0.0)


def shifted_rewards(rollout, value=None, next_value=None):
    reward = jnp.roll(zero_padding(rollout).reward, -1, axis=0).at[-1].set(0.0)
    return advantages.reward_to_go(GAMMA)(rollout._replace(reward=reward))


def with_ddof_0(rollout, returns):
    real = rollout.weight > 0
    x = jnp.where(real, returns - returns.mean(where=real), 0.0)
    return x / (returns.std(where=real) + 1e-9)


def merged_done(bootstraps_after_the_end):
    def advantage(rollout, value, next_value):
        rollout = zero_padding(rollout)
        done = rollout.terminated | rollout.truncated
        terminated = jnp.zeros_like(done) if bootstraps_after_the_end else done
        return pgjax.returns.gae(
            rollout.reward, value, next_value, terminated, done | segment_ends(rollout), GAMMA, 0.95
        )

    def value_target(rollout, value, next_value):
        return advantage(rollout, value, next_value) + value

    estimator = advantages.AdvantageEstimator(advantage, value_target)
    return advantages.time_discounted(estimator, GAMMA)


def mean_of_steps(*args, **kwargs):
    return pgjax.reinforce(*args, mean_over="steps", **kwargs)


def leaking(policy, optimizer, *, estimator, critic, chunk_size):
    """Differentiates the advantage too."""
    algorithm = pgjax.reinforce(policy, optimizer, estimator=estimator, critic=critic)

    def loss(params, rollout):
        rollout = zero_padding(rollout)
        value, next_value = (
            critic.apply({"params": params["critic"]}, x) for x in (rollout.obs, rollout.next_obs)
        )
        advantage = estimator(rollout, value, next_value)
        log_prob = algorithm.log_prob(params, rollout.obs, rollout.action)
        fitted = losses.value_loss(value, advantage + value)
        each = jnp.where(rollout.weight > 0, -advantage * log_prob + 0.5 * fitted, 0.0)
        return each.sum() / rollout.weight.shape[1], {}

    return algorithm._replace(loss=loss)


class _Clipping:
    """A policy whose log_prob is that of the clipped action, as the environment receives it."""

    def __init__(self, policy):
        self.policy = policy

    def apply(self, params, obs):
        right = self.policy.apply(params, obs)

        class Distribution:
            entropy = staticmethod(right.entropy)

            @staticmethod
            def log_prob(action):
                return right.log_prob(jnp.clip(action, -0.5, 1.0))

        return Distribution


def clipped_actions(policy, *args, **kwargs):
    wrong = pgjax.reinforce(_Clipping(policy), *args, **kwargs)
    return pgjax.reinforce(policy, *args, **kwargs)._replace(loss=wrong.loss)


BUGS = {
    "G_0 at every step": ("layers: reward_to_go", changed_returns(whole_return), None),
    "shifted rewards": ("layers: reward_to_go", shifted_rewards, None),
    "mean instead of sum": ("layers: gamma^t reward_to_go", None, mean_of_steps),
    "leaked gradients": ("layers: gamma^t gae(0.5), V", None, leaking),
    "wrong ddof": ("layers: normalized", changed_returns(with_ddof_0), None),
    "clipped log-prob": ("clipped: reward_to_go", None, clipped_actions),
    "merged done": ("random: gamma^t gae(0.95), V", merged_done(False), None),
    "merged done, the other way": ("random: gamma^t gae(0.95), V", merged_done(True), None),
}


_SLOW = ("mean instead of sum", "wrong ddof", "merged done, the other way")


@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=[pytest.mark.slow] * (bug in _SLOW)) for bug in BUGS]
)
def test_planted_bugs_are_found(bug):
    name, estimator, make = BUGS[bug]
    case = CASES[name]
    if estimator is not None:
        case = case._replace(estimator=estimator)
    [row] = compare.check([case], make or pgjax.reinforce)
    assert np.isfinite(row.error)
    assert row.error > 1e-3
    assert not row.ok


# --- documented biases, computed by hand ---


def bandit(p, num_episodes, estimator):
    """Expectation and variance of the gradient, for one choice between rewards 0 and 1.

    The policy has one logit, the difference of the two, so that grad log pi is 1 - p or -p.
    """
    mdp = tabular.make_mdp(
        [[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]],
        [[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]],
        terminal=[False, True],
    )

    class OneLogit(nn.Module):
        @nn.compact
        def __call__(self, obs):
            logit = self.param("logit", nn.initializers.zeros, ())
            logits = jnp.stack([0.0 * logit, logit])
            return pgjax.distributions.Categorical(jnp.broadcast_to(logits, (*obs.shape[:-1], 2)))

    with jax.enable_x64(True):
        policy = OneLogit()
        algorithm = pgjax.reinforce(policy, optax.identity(), estimator=estimator)
        params = {"params": {"logit": jnp.log(p / (1 - p))}}
        mean, variance = compare.moments(
            algorithm, policy, params, tabular.trajectories(mdp, 1), num_episodes
        )
    return -float(mean["params"]["logit"]), float(variance)


@pytest.mark.parametrize(
    "n", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_normalized_on_a_bandit_by_hand(n):
    """k of n episodes win.

    Winners have advantage (1 - k/n) / s and grad log pi 1 - p, losers -k/n / s and -p. The gradient
    of a batch is then k (n - k) / n^2 / s, with s^2 = k (n - k) / (n (n - 1)).
    """
    p = 0.3
    expected = sum(
        comb(n, k)
        * p**k
        * (1 - p) ** (n - k)
        * k
        * (n - k)
        / n**2
        / (np.sqrt(k * (n - k) / (n * (n - 1))) + 1e-9)
        for k in range(1, n)
    )
    mean, _ = bandit(p, n, advantages.normalized(advantages.reward_to_go(1.0)))
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-10)


def test_leave_one_out_on_a_bandit_by_hand():
    """grad J is p (1 - p); mean and variance are sums over the few possible batches."""
    p, n = 0.3, 2
    plain, variance = bandit(p, 1, advantages.reward_to_go(1.0))
    np.testing.assert_allclose(plain, p * (1 - p), atol=1e-12)
    # R (1 - p) with probability p, else 0
    np.testing.assert_allclose(variance, p * (1 - p) ** 2 - (p * (1 - p)) ** 2, atol=1e-12)
    mean, variance = bandit(p, n, advantages.leave_one_out(advantages.reward_to_go(1.0)))
    np.testing.assert_allclose(mean, p * (1 - p), atol=1e-12)
    # Two different rewards give (1 (1 - p) + (-1) (-p)) / 2 = 1/2, with probability 2 p (1 - p).
    np.testing.assert_allclose(variance, p * (1 - p) / 2 - (p * (1 - p)) ** 2, atol=1e-12)


def test_an_exact_critic_adds_no_bias_at_any_lambda():
    """GAE is biased by the errors of the critic, and by nothing else."""
    mdp = tabular.layered_mdp(0)
    case = CASES["layers: gamma^t gae(0), V"]
    with jax.enable_x64(True):
        pi = jnp.full((len(mdp.initial), 2), 0.5)
        true = tabular.state_values(mdp, pi, GAMMA)

        class Table(nn.Module):
            @nn.compact
            def __call__(self, obs):
                return obs @ self.param("values", nn.initializers.zeros, true.shape)

        class Uniform(nn.Module):
            @nn.compact
            def __call__(self, obs):
                logits = nn.Dense(2, use_bias=False)(obs)
                return pgjax.distributions.Categorical(logits)

        policy = Uniform()
        algorithm = pgjax.reinforce(
            policy, optax.identity(), estimator=case.estimator, critic=Table()
        )
        params = {
            "params": {"Dense_0": {"kernel": jnp.zeros((len(true), 2))}},
            "critic": {"values": true},
        }
        mean, _ = compare.moments(algorithm, policy, params, case.task.trajectories)
        exact = jax.grad(
            lambda p: tabular.objective(mdp, tabular.action_probabilities(mdp, policy, p), GAMMA)
        )(params)
    np.testing.assert_allclose(
        -mean["params"]["Dense_0"]["kernel"], exact["params"]["Dense_0"]["kernel"], atol=1e-12
    )
    np.testing.assert_allclose(mean["critic"]["values"], 0.0, atol=1e-12)
