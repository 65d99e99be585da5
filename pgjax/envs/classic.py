"""Gymnasium's classic control tasks as pure functions, verified against Gymnasium step by step.

`make` builds them by name, with their time limits. All compute in JAX's default floating dtype:
float32, or float64 with jax_enable_x64; observations are float32 either way.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.envs.base import Box, Discrete, Env, State, Step
from pgjax.envs.wrappers import time_limit
from pgjax.errors import ConfigError, check_count


def _never() -> jax.Array:
    """Return False: the task has no such end."""
    return jnp.zeros((), bool)


def _uniform(key: jax.Array, low: float, high: float, n: int) -> jax.Array:
    """Draw n numbers [n] between two bounds."""
    return jax.random.uniform(key, (n,), float, low, high)


def _wrap(angle: jax.Array) -> jax.Array:
    """Wrap an angle to [-pi, pi)."""
    return angle - 2 * math.pi * jnp.floor((angle + math.pi) / (2 * math.pi))


def cartpole() -> Env:
    """CartPole-v1 without its time limit: balance a pole on a cart, reward 1 per step.

    Use `make("CartPole-v1")` for the task with its limit. The observation is (position, velocity,
    angle, angular velocity); action 1 pushes right, 0 left.

    Source: Barto, Sutton & Anderson 1983, as in Gymnasium's cartpole.py.

    Example:
      >>> import jax
      >>> from pgjax.envs import classic
      >>> env = classic.cartpole()
      >>> state, obs = env.reset(jax.random.key(0))
      >>> obs.shape, env.action_space.n
      ((4,), 2)
    """
    gravity, pole_mass, total_mass, length, force, tau = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
    pole_moment = pole_mass * length
    max_x, max_theta = 2.4, 12 * 2 * math.pi / 360

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        obs = _uniform(key, -0.05, 0.05, 4)
        return tuple(obs), obs.astype(jnp.float32)

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        x, x_dot, theta, theta_dot = state
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        push = jnp.where(action == 1, force, -force)
        temp = (push + pole_moment * theta_dot**2 * sin) / total_mass
        theta_acc = (gravity * sin - cos * temp) / (
            length * (4.0 / 3.0 - pole_mass * cos**2 / total_mass)
        )
        x_acc = temp - pole_moment * theta_acc * cos / total_mass
        x, x_dot = x + tau * x_dot, x_dot + tau * x_acc
        theta, theta_dot = theta + tau * theta_dot, theta_dot + tau * theta_acc
        state = (x, x_dot, theta, theta_dot)
        fallen = (jnp.abs(x) > max_x) | (jnp.abs(theta) > max_theta)
        return state, jnp.stack(state).astype(jnp.float32), jnp.float32(1.0), fallen, _never()

    high = np.array([2 * max_x, np.inf, 2 * max_theta, np.inf], np.float32)
    return Env(reset, step, Box(-high, high, (4,)), Discrete(2))


def pendulum() -> Env:
    """Pendulum-v1 without its time limit: swing a pendulum up with a weak motor and hold it there.

    Use `make("Pendulum-v1")` for the task with its limit. The state is (angle in [-pi, pi), speed),
    angle 0 upright; the observation is (cosine, sine, speed), the action a torque from -2 to 2. It
    never terminates.

    Source: Gymnasium's pendulum.py.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import classic
      >>> env = classic.pendulum()
      >>> upright = jnp.zeros(()), jnp.zeros(())
      >>> state, obs, *_ = jax.jit(env.step)(jax.random.key(0), upright, jnp.zeros(1))
      >>> obs.tolist()
      [1.0, 0.0, 0.0]
    """
    max_speed, max_torque, dt, gravity = 8.0, 2.0, 0.05, 10.0

    def observe(theta: jax.Array, speed: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(theta), jnp.sin(theta), speed]).astype(jnp.float32)

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        theta, speed = _uniform(key, -1.0, 1.0, 2)
        theta = math.pi * theta
        return (theta, speed), observe(theta, speed)

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        theta, speed = state
        torque = jnp.clip(action, -max_torque, max_torque)[0]
        cost = theta**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = speed + (1.5 * gravity * jnp.sin(theta) + 3.0 * torque) * dt
        speed = jnp.clip(speed, -max_speed, max_speed)
        theta = _wrap(theta + speed * dt)
        reward = -cost.astype(jnp.float32)
        return (theta, speed), observe(theta, speed), reward, _never(), _never()

    high = np.array([1.0, 1.0, max_speed], np.float32)
    return Env(reset, step, Box(-high, high, (3,)), Box(-max_torque, max_torque, (1,)))


def acrobot() -> Env:
    """Acrobot-v1 without its time limit: swing up a two-link pendulum by its middle joint.

    Use `make("Acrobot-v1")` for the task with its limit. The observation is the cosine and sine of
    both angles and both speeds; the actions are the torques -1, 0 and 1; the reward is -1 per step
    until the tip is high enough. A step is one Runge-Kutta step of 0.2 s.

    Source: Sutton & Barto, 2nd ed., section 11.3 (the book's equations), as in Gymnasium.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import classic
      >>> env = classic.acrobot()
      >>> hanging = jnp.zeros(4)
      >>> state, obs, *_ = jax.jit(env.step)(jax.random.key(0), hanging, jnp.int32(1))
      >>> obs.tolist()
      [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    dt, gravity, max_speeds = 0.2, 9.8, (4 * math.pi, 9 * math.pi)

    def observe(theta1: jax.Array, theta2: jax.Array, *speeds: jax.Array) -> jax.Array:
        angles = [jnp.cos(theta1), jnp.sin(theta1), jnp.cos(theta2), jnp.sin(theta2)]
        return jnp.stack([*angles, *speeds]).astype(jnp.float32)

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state = _uniform(key, -0.1, 0.1, 4)
        return state, observe(*state)

    def slope(state: jax.Array, torque: jax.Array) -> jax.Array:
        # Links of length 1, mass 1, centre at 0.5, moment of inertia 1.
        theta1, theta2, speed1, speed2 = state
        cos2, sin2 = jnp.cos(theta2), jnp.sin(theta2)
        d1 = 0.25 + (1.25 + cos2) + 2.0
        d2 = (0.25 + 0.5 * cos2) + 1.0
        phi2 = 0.5 * gravity * jnp.sin(theta1 + theta2)
        phi1 = (
            -0.5 * speed2**2 * sin2
            - speed2 * speed1 * sin2
            + 1.5 * gravity * jnp.sin(theta1)
            + phi2
        )
        acc2 = (torque + d2 / d1 * phi1 - 0.5 * speed1**2 * sin2 - phi2) / (1.25 - d2**2 / d1)
        acc1 = -(d2 * acc2 + phi1) / d1
        return jnp.stack([speed1, speed2, acc1, acc2])

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        torque = action - 1.0
        k1 = slope(state, torque)
        k2 = slope(state + dt / 2 * k1, torque)
        k3 = slope(state + dt / 2 * k2, torque)
        k4 = slope(state + dt * k3, torque)
        theta1, theta2, *speeds = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        theta1, theta2 = _wrap(theta1), _wrap(theta2)
        speed1, speed2 = (jnp.clip(v, -m, m) for v, m in zip(speeds, max_speeds, strict=True))
        state = jnp.stack([theta1, theta2, speed1, speed2])
        swung_up = -jnp.cos(theta1) - jnp.cos(theta1 + theta2) > 1.0
        reward = jnp.where(swung_up, 0.0, -1.0).astype(jnp.float32)
        return state, observe(*state), reward, swung_up, _never()

    high = np.array([1.0, 1.0, 1.0, 1.0, *max_speeds], np.float32)
    return Env(reset, step, Box(-high, high, (6,)), Discrete(3))


def _mountain_car(
    push: Callable[[jax.Array], jax.Array],
    reward: Callable[[jax.Array, jax.Array], jax.Array],
    goal: float,
    action_space: Discrete | Box,
) -> Env:
    """Make a car in a valley.

    Args:
      push: maps an action to an acceleration.
      reward: maps (action, whether the goal is reached) to the reward.
      goal: the position of the goal.
      action_space: the space of actions.
    """
    left, right, max_speed, gravity = -1.2, 0.6, 0.07, 0.0025

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        (position,) = _uniform(key, -0.6, -0.4, 1)
        state = (position, jnp.zeros_like(position))
        return state, jnp.stack(state).astype(jnp.float32)

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        position, speed = state
        speed = speed + (push(action) - gravity * jnp.cos(3 * position))
        speed = jnp.clip(speed, -max_speed, max_speed)
        position = jnp.clip(position + speed, left, right)
        speed = jnp.where((position <= left) & (speed < 0), 0.0, speed)
        arrived = (position >= goal) & (speed >= 0.0)
        state = (position, speed)
        obs = jnp.stack(state).astype(jnp.float32)
        return state, obs, reward(action, arrived).astype(jnp.float32), arrived, _never()

    low, high = (np.array(x, np.float32) for x in ([left, -max_speed], [right, max_speed]))
    return Env(reset, step, Box(low, high, (2,)), action_space)


def mountain_car() -> Env:
    """MountainCar-v0 without its time limit: drive an underpowered car out of a valley.

    Use `make("MountainCar-v0")` for the task with its limit. The observation is (position, speed);
    the actions push left (0), not at all (1) and right (2); the reward is -1 per step.

    Source: Moore 1990, as in Gymnasium's mountain_car.py.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import classic
      >>> env = classic.mountain_car()
      >>> near_goal = jnp.float32(0.49), jnp.float32(0.05)
      >>> result = jax.jit(env.step)(jax.random.key(0), near_goal, jnp.int32(2))
      >>> state, obs, reward, terminated, truncated = result
      >>> float(reward), bool(terminated)
      (-1.0, True)
    """
    return _mountain_car(
        lambda action: (action - 1) * 0.001,
        lambda action, arrived: jnp.float32(-1.0),
        0.5,
        Discrete(3),
    )


def mountain_car_continuous() -> Env:
    """MountainCarContinuous-v0 without its time limit: MountainCar with a throttle from -1 to 1.

    Use `make("MountainCarContinuous-v0")` for the task with its limit. The reward is 100 at the
    goal, less 0.1 times the squared action in every step.

    Source: Moore 1990, as in Gymnasium's continuous_mountain_car.py.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import classic
      >>> env = classic.mountain_car_continuous()
      >>> near_goal = jnp.float32(0.44), jnp.float32(0.05)
      >>> result = jax.jit(env.step)(jax.random.key(0), near_goal, jnp.zeros(1))
      >>> state, obs, reward, terminated, truncated = result
      >>> float(reward), bool(terminated)
      (100.0, True)
    """
    return _mountain_car(
        lambda action: jnp.clip(action[0], -1.0, 1.0) * 0.0015,
        lambda action, arrived: jnp.where(arrived, 100.0, 0.0) - 0.1 * action[0] ** 2,
        0.45,
        Box(-1.0, 1.0, (1,)),
    )


CLASSIC: dict[str, tuple[Callable[[], Env], int]] = {
    "CartPole-v1": (cartpole, 500),
    "Pendulum-v1": (pendulum, 200),
    "Acrobot-v1": (acrobot, 500),
    "MountainCar-v0": (mountain_car, 200),
    "MountainCarContinuous-v0": (mountain_car_continuous, 999),
}
"""Gymnasium's name of each environment -> (its maker, its time limit in steps)."""


def make(env_id: str, max_episode_steps: int | None = None) -> Env:
    """Make a functional environment by its Gymnasium name.

    Use it to train in one compiled program. Available are CartPole-v1, Pendulum-v1, Acrobot-v1,
    MountainCar-v0 and MountainCarContinuous-v0.

    Args:
      env_id: Gymnasium's name.
      max_episode_steps: a time limit in steps, at least 1; by default Gymnasium's.

    Returns:
      The environment, wrapped in `time_limit`; the same object for the same arguments.

    Raises:
      ConfigError: if no functional environment has this name, or the limit is out of range.

    Example:
      >>> import jax
      >>> import pgjax
      >>> env = pgjax.envs.make("CartPole-v1")
      >>> key = jax.random.key(0)
      >>> state, obs = env.reset(key)
      >>> state, obs, reward, terminated, truncated = jax.jit(env.step)(key, state, 1)
      >>> obs.shape, float(reward), bool(terminated), bool(truncated)
      ((4,), 1.0, False, False)
    """
    if env_id not in CLASSIC:
        raise ConfigError(
            f"no functional environment {env_id!r}, only {', '.join(CLASSIC)}: convert others "
            "with pgjax.envs.from_func_env, from_brax or from_gymnax"
        )
    steps = CLASSIC[env_id][1]
    if max_episode_steps is not None:
        steps = check_count("max_episode_steps", max_episode_steps)
    return _make(env_id, steps)


@functools.cache  # the same object for the same arguments, so that its users compile once
def _make(env_id: str, max_episode_steps: int) -> Env:
    return time_limit(CLASSIC[env_id][0](), max_episode_steps)
