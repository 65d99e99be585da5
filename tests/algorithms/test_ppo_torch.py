"""PPO's update against PyTorch, written from the papers in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import import_with_torch, make_rollout

import pgjax
from pgjax.advantages import gae, normalized
from pgjax.algorithms import minibatches

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


def torch_update(params, rollout, minibatches, options):
    """Return parameters and metrics after an update; `minibatches` holds lists of rows by epoch."""
    policy, critic = tensors(params["params"]), tensors(params["critic"])
    leaves = [*jax.tree.leaves(policy), *jax.tree.leaves(critic)]
    adam = torch.optim.Adam(leaves, lr=RATE)
    real, clip, value_clip = rollout.weight > 0, options["clip"], options["value_clip"]
    obs, action = (torch.tensor(np.asarray(x)[real]) for x in (rollout.obs, rollout.action))
    with torch.no_grad():
        old = distribution(policy, obs).log_prob(action)
        old_value = mlp(critic, obs)[:, 0]
    steps = 0
    for epoch, parts in enumerate(minibatches):
        if epoch == 0 or options["recompute_advantages"]:
            advantage, target = estimates(critic, rollout)
        kls, clipped, value_losses = [], [], []
        for rows in parts:
            dist, value = distribution(policy, obs[rows]), mlp(critic, obs[rows])[:, 0]
            log_ratio = dist.log_prob(action[rows]) - old[rows]
            ratio = log_ratio.exp()
            clamped = ratio.clamp(1 - clip, 1 + clip)
            surrogate = torch.min(ratio * advantage[rows], clamped * advantage[rows])
            error = (value - target[rows]) ** 2
            if value_clip is not None:
                moved = (value - old_value[rows]).clamp(-value_clip, value_clip)
                error = torch.max(error, (old_value[rows] + moved - target[rows]) ** 2)
            loss = -surrogate + 0.5 * error / 2 - options["entropy_coef"] * dist.entropy()
            kls.append((ratio - 1 - log_ratio).detach())
            clipped.append((ratio - 1).abs() > clip)
            value_losses.append(error.detach() / 2)
            if kls[-1].mean() > 1.5 * options["target_kl"]:
                break
            adam.zero_grad()
            loss.mean().backward()
            adam.step()
            steps += 1
        else:
            continue
        break
    metrics = {
        "approx_kl": torch.cat(kls).mean(),
        "clip_fraction": torch.cat(clipped).double().mean(),
        "value_loss": torch.cat(value_losses).mean(),
        "optimizer_steps": steps,
    }
    return {"params": policy, "critic": critic}, metrics


def rows_by_minibatch(state, rollout, epochs, size):
    """Return lists of rows among the real steps, in the order that pgjax shuffles them."""
    real = rollout.weight > 0
    number = np.cumsum(real.ravel()) - 1  # of each real step
    if size is None:
        return [[np.arange(real.sum())]] * epochs
    result = []
    for epoch in range(epochs):
        key = minibatches.shuffling_key(state.key, state.step, epoch)
        shuffled = minibatches.shuffle(key, real.reshape(1, -1), real.shape[1], pgjax.Sharding())
        order = number[np.asarray(shuffled.order[0])[: real.sum()]]
        result.append([order[i : i + size] for i in range(0, len(order), size)])
    return result


DEFAULTS = {
    "clip": 0.2,
    "value_clip": None,
    "entropy_coef": 0.03,
    "recompute_advantages": False,
    "target_kl": 1e9,
    "minibatch_size": None,
}
EVERYTHING = {
    "value_clip": 0.05,
    "recompute_advantages": True,
    "clip": 0.1,
    "entropy_coef": 0.0,
    "minibatch_size": 25,
}


@pytest.mark.parametrize(
    ("kind", "epochs", "options"),
    [
        ("softmax", 10, {}),
        ("gaussian", 4, EVERYTHING),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("softmax", 1, {}),
                ("softmax", 4, EVERYTHING),
                ("softmax", 2, {"recompute_advantages": True}),
                ("gaussian", 1, {}),
                ("gaussian", 4, {"value_clip": 0.05, "clip": 0.05}),
                ("gaussian", 10, {}),
                # It ends within the third epoch.
                ("gaussian", 10, {"minibatch_size": 20, "target_kl": 0.01}),
            ]
        ),
    ],
)
def test_updates_equal_torch(kind, epochs, options):
    rng = np.random.default_rng(0)
    options = DEFAULTS | options
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
            **options,
        )
        state = algorithm.init(jax.random.key(0), rollout.obs[0])
        params = jax.tree.map(lambda x: 3 * x.astype(float), state.params)  # far from uniform
        state = state._replace(params=params, opt_state=optax.adam(RATE).init(params))
        stepped, info = algorithm.update(state, rollout)
        rows = rows_by_minibatch(state, rollout, epochs, options["minibatch_size"])
        expected, metrics = torch_update(params, rollout, rows, options)
        for name, value in metrics.items():
            np.testing.assert_allclose(info[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
        assert epochs < 4 or info["clip_fraction"] > 0
        for name, before in params.items():
            for old, ours, theirs in zip(
                *(jax.tree.leaves(x) for x in (before, stepped.params[name], expected[name])),
                strict=True,
            ):
                step = theirs.detach().numpy() - old
                np.testing.assert_allclose(ours - old, step, rtol=1e-9, atol=1e-12)
