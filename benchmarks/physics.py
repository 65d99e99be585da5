"""Compare the functional environments with Gymnasium's, episode by episode.

    python benchmarks/physics.py                   # float32, as in training
    JAX_ENABLE_X64=1 python benchmarks/physics.py  # float64, as in Gymnasium

Both environments start from the same state and receive the same random actions until Gymnasium's
episode ends. "free" compares whole trajectories; "by step" sets the functional environment to
Gymnasium's state before each step. Differences are relative to the largest magnitude that the
component takes in the episode. Exits with 1 if a difference by step is above 1e-5, or if an episode
ends differently. Free trajectories diverge where the motion is chaotic (Acrobot, and Pendulum near
the top), in float64 too.
"""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import readme

import pgjax
from pgjax.envs.classic import CLASSIC

TOLERANCE = 1e-5


def functional_state(env_id, state, like, elapsed):
    """Convert Gymnasium's states [n, ...] to those of the functional environment."""
    columns = jnp.asarray(np.moveaxis(np.asarray(state, float), -1, 0), float)
    if env_id == "Pendulum-v1":
        columns = columns.at[0].set(jnp.asarray((state[..., 0] + np.pi) % (2 * np.pi) - np.pi))
    inner = jnp.moveaxis(columns, 0, -1) if env_id == "Acrobot-v1" else tuple(columns)
    assert jax.tree.structure(inner) == jax.tree.structure(like[0])
    return inner, elapsed


def gymnasium_episodes(env_id, episodes):
    """Initial functional states, and the episodes of Gymnasium that start there."""
    env, ours = gym.make(env_id), pgjax.envs.make(env_id)
    keys = jax.random.split(jax.random.key(0), episodes)
    starts = jax.jit(jax.vmap(lambda key: ours.reset(key)[0]))(keys)
    env.action_space.seed(0)
    out = []
    for e in range(episodes):
        env.reset(seed=e)
        leaves = jax.tree.leaves(starts[0])
        start = leaves[0][e] if len(leaves) == 1 else [leaf[e] for leaf in leaves]
        env.unwrapped.state = np.array(start, np.float64)
        states, rows, ended = [], [], False
        while not ended:
            states.append(np.array(env.unwrapped.state, np.float64))
            action = env.action_space.sample()
            obs, reward, terminated, truncated, _ = env.step(action)
            rows.append((action, obs, reward, terminated, truncated))
            ended = terminated or truncated
        out.append((np.array(states), *map(np.array, zip(*rows, strict=True))))
    return ours, starts, out


def padded(arrays, length):
    """Stack arrays of different lengths, padded with zeros."""
    return np.stack([np.pad(a, [(0, length - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays])


def compare(env_id, episodes):
    env, starts, runs = gymnasium_episodes(env_id, episodes)
    length = max(len(r[0]) for r in runs)
    states, actions, obs, reward, terminated, truncated = (
        padded(x, length) for x in zip(*runs, strict=True)
    )
    real = np.arange(length) < np.array([[len(r[0])] for r in runs])
    key = jax.random.key(0)  # none of the five environments draws random numbers in a step

    @jax.jit
    @jax.vmap
    def free(start, actions):
        def step(state, action):
            state, *result = env.step(key, state, action)
            return state, result

        return jax.lax.scan(step, start, actions)[1]

    elapsed = np.broadcast_to(np.arange(length, dtype=np.int32), real.shape)
    by_step = jax.jit(jax.vmap(jax.vmap(lambda s, a: env.step(key, s, a)[1:])))
    results = {
        "free": free(starts, actions),
        "by step": by_step(functional_state(env_id, states, starts, elapsed), actions),
    }
    ok = True
    for name, (o, r, term, trunc) in results.items():
        worst, above = {}, np.zeros(len(runs), bool)
        for field, mine, theirs in (("obs", o, obs), ("reward", r, reward[..., None])):
            theirs = np.where(real[..., None], theirs, 0)
            mine = np.where(real[..., None], np.asarray(mine, float).reshape(theirs.shape), 0)
            scale = np.abs(theirs).max(1, keepdims=True)
            difference = np.abs(mine - theirs) / np.maximum(scale, 1e-30)
            worst[field] = difference.max()
            above |= (~(difference <= TOLERANCE)).any((1, 2))
        ends = (real & ((term != terminated) | (trunc != truncated))).any(1).sum()
        print(
            f"{env_id:25s} {name:8s} {real.sum():>8,} steps  obs {worst['obs']:.1e}  reward "
            f"{worst['reward']:.1e}  episodes above {TOLERANCE:g}: {above.sum()}, ending "
            f"differently: {ends}",
            flush=True,
        )
        ok &= name == "free" or not (above.any() or ends)
    return ok


def main():
    parser = readme.parser(__doc__)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--envs", nargs="+", default=list(CLASSIC))
    args = parser.parse_args()
    print(f"jax in {jnp.zeros(()).dtype}, {args.episodes} episodes")
    raise SystemExit(not all([compare(env_id, args.episodes) for env_id in args.envs]))


if __name__ == "__main__":
    main()
