"""examples/third_party.py: its adapters, which docs/environments.md shows, train."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import third_party
from conftest import ROOT

from pgjax import envs

LIBRARY = {
    "navix_empty": "navix",
    "pgx_breakout": "pgx",
    "pgx_tic_tac_toe": "pgx",
    "jumanji_snake": "jumanji",
    "craftax_classic": "craftax",
}
MAKERS = {make.__name__: make for make in third_party.ENVIRONMENTS}
LINES = [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {0, 3, 6}, {1, 4, 7}, {2, 5, 8}, {0, 4, 8}, {2, 4, 6}]
pytestmark = pytest.mark.filterwarnings("default")  # the libraries warn


@pytest.fixture(autouse=True)
def rank_promotion():  # navix relies on it
    with jax.numpy_rank_promotion("allow"):
        yield


def test_the_example_imports_no_library():
    script = f"""
import sys
for name in {sorted(set(LIBRARY.values()))}:
    sys.modules[name] = None  # importing it raises ImportError
sys.path.insert(0, {str(ROOT / "examples")!r})
import third_party
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_page_shows_every_adapter_and_no_other():
    page = (ROOT / "docs" / "environments.md").read_text()
    shown = re.findall(r"third_party\.py (\w+)|third_party\.(\w+)\(", page)
    assert {script or called for script, called in shown} == set(LIBRARY) == set(MAKERS)


@pytest.fixture(params=LIBRARY)
def make(request):
    pytest.importorskip(LIBRARY[request.param])
    return MAKERS[request.param]


@pytest.mark.slow
def test_two_updates_run(make):
    returns = third_party.train(make, updates=2, num_envs=4, num_steps=8)
    assert np.isfinite(returns).all()
    assert len(returns) == 2


def test_masks_allow_something_until_the_end(make):
    env = make()
    size = env.action_space.n if make in third_party.MASKED else 0
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for t in range(20):
        mask = np.asarray(obs)[:size]
        assert set(mask.tolist()) <= {0.0, 1.0}
        action = int(np.argmax(mask)) if size else 0
        state, obs, _, terminated, truncated = step(jax.random.key(t), state, action)
        if terminated or truncated:
            break
        assert not size or obs[:size].any()


def test_the_opponent_answers_and_results_are_rewarded():
    """After a step of a game that goes on, X and O are equally many, or the opponent began."""
    pytest.importorskip("pgx")
    env = third_party.pgx_tic_tac_toe()
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    results = []
    for seed in range(30):
        state, obs = reset(jax.random.key(seed))
        began, over = obs[:9].sum() == 8, False  # by the opponent
        while not over:
            board = np.asarray(obs[9:]).reshape(9, 2)  # mine, theirs
            assert board[:, 1].sum() - board[:, 0].sum() == began
            assert (obs[:9] == 1 - board.sum(-1)).all()
            key = jax.random.fold_in(jax.random.key(seed), int(board.sum()))
            assert state.current_player == 0
            move = int(np.argmax(obs[:9]))
            mine = {move, *np.flatnonzero(board[:, 0]).tolist()}
            state, obs, reward, over, _ = step(key, state, move)
            assert (reward == 1) == any(line <= mine for line in LINES)
            assert over or reward == 0
        results.append(float(reward))
    assert {1.0, -1.0} <= set(results) <= {1.0, 0.0, -1.0}


def test_the_limit_of_navix_truncates():
    pytest.importorskip("navix")
    env = third_party.navix_empty()
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for _ in range(env.max_episode_steps):
        state, _, reward, terminated, truncated = step(jax.random.key(0), state, 0)  # turn
        assert (reward, bool(terminated)) == (0, False)
    assert truncated


def test_gymnasium_sees_the_same_environment():
    pytest.importorskip("navix")
    env = envs.as_gymnasium(third_party.navix_empty())
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert env.observation_space.contains(env.step(2)[0])
