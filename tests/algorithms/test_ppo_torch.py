"""PPO's update against PyTorch, written from the papers in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import import_with_torch, make_rollout

import pgjax
from pgjax.advantages import gae, normalized

import_with_torch("torch")
import torch  # noqa: E402

GAMMA, LAMBDA, RATE = 0.9, 0.8, 0.01
HIDDEN = (6,)


def tensors(tree):
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), tree)


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def mlp(params, x):
    return dense(params["Dense_1"], torch.tanh(dense(params["Dense_0"], x)))


def distribution(params, obs):
    out = mlp(params, obs)
    if "log_std" not in params:
        return torch.distributions.Categorical(logits=out)
    normal = torch.distributions.Normal(out, params["log_std"].exp())
    return torch.distributions.Independent(normal, 1)


def estimates(critic, rollout):
    """Normalised GAE, and the critic's targets, column by column in plain Python."""
    with torch.no_grad():
        value, after = (
            mlp(critic, torch.tensor(x))[..., 0].numpy() for x in (rollout.obs, rollout.next_obs)
        )
    advantage = np.zeros_like(rollout.reward)
    for b in range(rollout.reward.shape[1]):
        tail = 0.0
        for t in reversed(range(int(rollout.weight[:, b].sum()))):
            alive = not rollout.terminated[t, b]
            goes_on = alive and not rollout.truncated[t, b]
            delta = rollout.reward[t, b] + GAMMA * alive * after[t, b] - value[t, b]
            tail = delta + GAMMA * LAMBDA * goes_on * tail
            advantage[t, b] = tail
    real = rollout.weight > 0
    target = (advantage + value)[real]
    advantage = advantage[real]
    advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-9)
    return torch.tensor(advantage), torch.tensor(target)


def torch_update(params, rollout, epochs, clip, value_clip, entropy_coef, recompute):
    """Return the parameters after an update with the whole batch, and the last loss."""
    policy, critic = tensors(params["params"]), tensors(params["critic"])
    leaves = [*jax.tree.leaves(policy), *jax.tree.leaves(critic)]
    adam = torch.optim.Adam(leaves, lr=RATE)
    real = rollout.weight > 0
    obs, action = (torch.tensor(np.asarray(x)[real]) for x in (rollout.obs, rollout.action))
    with torch.no_grad():
        old = distribution(policy, obs).log_prob(action)
        old_value = mlp(critic, obs)[:, 0]
    for epoch in range(epochs):
        if epoch == 0 or recompute:
            advantage, target = estimates(critic, rollout)
        dist, value = distribution(policy, obs), mlp(critic, obs)[:, 0]
        ratio = torch.exp(dist.log_prob(action) - old)
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
        error = (value - target) ** 2
        if value_clip is not None:
            near = old_value + (value - old_value).clamp(-value_clip, value_clip)
            error = torch.max(error, (near - target) ** 2)
        loss = (-surrogate + 0.5 * error / 2 - entropy_coef * dist.entropy()).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {"params": policy, "critic": critic}, loss.item()


EVERYTHING = {"value_clip": 0.05, "recompute_advantages": True, "clip": 0.1, "entropy_coef": 0.0}


@pytest.mark.parametrize(
    ("kind", "epochs", "options"),
    [
        ("softmax", 10, {}),
        ("gaussian", 10, EVERYTHING),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("softmax", 1, {}),
                ("softmax", 10, EVERYTHING),
                ("softmax", 2, {"recompute_advantages": True}),
                ("gaussian", 1, {}),
                ("gaussian", 4, {"value_clip": 0.05, "clip": 0.05}),
                ("gaussian", 10, {}),
            ]
        ),
    ],
)
def test_updates_equal_torch(kind, epochs, options):
    rng = np.random.default_rng(0)
    options = {"clip": 0.2, "value_clip": None, "entropy_coef": 0.03} | options
    action = None if kind == "softmax" else lambda shape: rng.normal(size=(*shape, 2))
    rollout = make_rollout(rng, [30, 7, 24], action=action, terminated=[True, False, True])
    with jax.enable_x64(True):
        rollout = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, rollout)
        make = pgjax.SoftmaxPolicy if kind == "softmax" else pgjax.GaussianPolicy
        algorithm = pgjax.ppo(
            make(2, HIDDEN, jnp.tanh),
            optax.adam(RATE),
            critic=pgjax.ValueNetwork(HIDDEN, jnp.tanh),
            estimator=normalized(gae(GAMMA, LAMBDA)),
            num_epochs=epochs,
            minibatch_size=None,
            **options,
        )
        state = algorithm.init(jax.random.key(0), rollout.obs[0])
        params = jax.tree.map(lambda x: 3 * x.astype(float), state.params)  # far from uniform
        state = state._replace(params=params, opt_state=optax.adam(RATE).init(params))
        stepped, info = algorithm.update(state, rollout)
        expected, _ = torch_update(
            params,
            rollout,
            epochs,
            options["clip"],
            options["value_clip"],
            options["entropy_coef"],
            options.get("recompute_advantages", False),
        )
        assert epochs < 4 or float(info["clip_fraction"]) > 0
        for name, before in params.items():
            for old, ours, theirs in zip(
                *(jax.tree.leaves(x) for x in (before, stepped.params[name], expected[name])),
                strict=True,
            ):
                step = theirs.detach().numpy() - old
                np.testing.assert_allclose(ours - old, step, rtol=1e-9, atol=1e-12)
