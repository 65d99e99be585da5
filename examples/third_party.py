"""Train on environments of other JAX libraries: navix, pgx, jumanji and craftax.

    python examples/third_party.py navix_empty
    python examples/third_party.py craftax_classic --updates 10 --num-envs 16

Each function makes a functional environment (pgjax.envs.Env) and imports its library itself. If a
library has action masks, they are the first numbers of the observations. docs/environments.md says
what to install, and what these commands give.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import pgjax
from pgjax import envs


def navix_empty(name: str = "Navix-Empty-5x5-v0") -> envs.Env:
    """Walk to the goal of a grid world, or another environment of navix."""
    import navix

    game = navix.make(name)

    def observed(timestep: Any) -> jax.Array:
        return timestep.observation.ravel() / jnp.float32(10)  # codes of objects and colours

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        timestep = game.reset(key)
        return timestep, observed(timestep)

    def step(key: jax.Array, timestep: Any, action: jax.Array) -> tuple[Any, ...]:
        timestep = game.step(timestep, action)
        truncated, terminated = timestep.step_type == 1, timestep.step_type == 2
        return timestep, observed(timestep), timestep.reward, terminated, truncated

    size = int(np.prod(game.observation_space.shape))
    actions = envs.Discrete(int(game.action_space.maximum) + 1)
    return envs.Env(reset, step, envs.Box(0.0, np.inf, (size,)), actions, game.max_steps)


def pgx_breakout(name: str = "minatar-breakout") -> envs.Env:
    """MinAtar's Breakout, or another game of pgx for one player, such as 2048."""
    import pgx

    game = pgx.make(name)

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        state = game.init(key)
        return state, _pgx_observed(state)

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        state = game.step(state, action, key)
        return state, _pgx_observed(state), state.rewards[0], state.terminated, state.truncated

    return envs.Env(reset, step, *_pgx_spaces(game))


def pgx_tic_tac_toe() -> envs.Env:
    """Tic-tac-toe against random legal moves; who begins is random.

    The agent is player 0. A step is a move of the agent and the answer of the opponent, so this
    suits any game of pgx in which two players take turns.
    """
    import pgx

    game = pgx.make("tic_tac_toe")

    def answered(key: jax.Array, state: Any) -> Any:
        """Let the opponent move if it is its turn. A game that is over stays as it is."""
        move_key, step_key = jax.random.split(key)
        move = jax.random.categorical(move_key, jnp.where(state.legal_action_mask, 0.0, -jnp.inf))
        after = game.step(state, move, step_key)
        return jax.tree.map(lambda x, y: jnp.where(state.current_player == 1, x, y), after, state)

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        init_key, move_key = jax.random.split(key)
        state = answered(move_key, game.init(init_key))
        return state, _pgx_observed(state)

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        step_key, move_key = jax.random.split(key)
        moved = game.step(state, action, step_key)
        state = answered(move_key, moved)
        reward = jnp.where(moved.terminated, moved.rewards[0], state.rewards[0])
        return state, _pgx_observed(state), reward, state.terminated, state.truncated

    return envs.Env(reset, step, *_pgx_spaces(game))


def _pgx_observed(state: Any) -> jax.Array:
    return jnp.concatenate([state.legal_action_mask, state.observation.ravel()], dtype=jnp.float32)


def _pgx_spaces(game: Any) -> tuple[envs.Box, envs.Discrete]:
    size = game.num_actions + int(np.prod(game.observation_shape))
    return envs.Box(0.0, np.inf, (size,)), envs.Discrete(game.num_actions)


def jumanji_snake(rows: int = 6) -> envs.Env:
    """Snake on a square grid; for another environment of jumanji, replace `observed`."""
    from jumanji.environments import Snake

    game = Snake(num_rows=rows, num_cols=rows)

    def observed(obs: Any) -> jax.Array:
        return jnp.concatenate([obs.action_mask, obs.grid.ravel()], dtype=jnp.float32)

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        state, timestep = game.reset(key)
        return state, observed(timestep.observation)

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        state, timestep = game.step(state, action)
        terminated = timestep.last() & (timestep.discount == 0)
        truncated = timestep.last() & (timestep.discount > 0)
        return state, observed(timestep.observation), timestep.reward, terminated, truncated

    actions = game.action_spec.num_values
    return envs.Env(
        reset, step, envs.Box(0.0, 1.0, (actions + 5 * rows**2,)), envs.Discrete(actions)
    )


def craftax_classic(name: str = "Craftax-Classic-Symbolic-v1") -> envs.Env:
    """Craftax, whose functions are those of gymnax."""
    from craftax.craftax_env import make_craftax_env_from_name

    game = make_craftax_env_from_name(name, auto_reset=False)
    limit = game.default_params.max_timesteps
    params = game.default_params.replace(max_timesteps=2**31 - 1)  # pgjax truncates instead
    return envs.from_gymnax(game, params, max_episode_steps=limit)


ENVIRONMENTS: tuple[Callable[[], envs.Env], ...] = (
    navix_empty,
    pgx_breakout,
    pgx_tic_tac_toe,
    jumanji_snake,
    craftax_classic,
)
MASKED = (pgx_breakout, pgx_tic_tac_toe, jumanji_snake)  # see pgjax.MaskedPolicy


def train(
    make: Callable[[], envs.Env], updates: int = 50, num_envs: int = 64, num_steps: int = 64
) -> list[float]:
    """Train with PPO in one compiled program; return the mean return of each update."""
    env = make()
    envs.check(env)  # reports shapes and dtypes that do not fit
    policy: nn.Module = pgjax.SoftmaxPolicy(env.action_space.n, (64, 64), nn.tanh)
    if make in MASKED:
        policy = pgjax.MaskedPolicy(policy, env.action_space.n)
    algorithm = pgjax.ppo(
        policy,
        optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3, eps=1e-5)),
        critic=pgjax.ValueNetwork(),
        num_epochs=4,
        minibatch_size=512,
        entropy_coef=0.01,
        normalize_rewards=0.99,
    )
    step = jax.jit(pgjax.training_step(algorithm, env, num_envs=num_envs, num_steps=num_steps))
    state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
    stream = pgjax.init_stream(env, state.key, num_envs)
    returns = []
    for update in range(1, updates + 1):
        state, stream, info = step(state, stream)
        returns.append(float(info["mean_return"]))
        if update % max(1, updates // 10) == 0 or update == 1:
            print(f"update {update}: return {returns[-1]:.2f}", flush=True)
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", choices=[make.__name__ for make in ENVIRONMENTS])
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--num-envs", type=int, default=64)
    args = parser.parse_args()
    pgjax.enable_compile_cache()  # later runs start faster
    start = time.perf_counter()
    train(globals()[args.environment], args.updates, args.num_envs)
    print(f"{time.perf_counter() - start:.0f} s, with compiling")


if __name__ == "__main__":
    main()
