import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Set before JAX is imported, and inherited by the workers of pytest-xdist and the processes that
# tests start: share compiled programs between tests, and collect the temporary files of doctests.
if "PGJAX_TESTS_FOLDER" not in os.environ:
    # tmp_path stays where it is, so that it can be inspected after a failure.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="pgjax-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["PGJAX_TESTS_FOLDER"] = os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.environ["XDG_STATE_HOME"] = f"{folder}/state"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # A tenth less time to compile, and the same bits; see pgjax.numerics.xla.fast_compile.
    quick = "--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()

import jax
import numpy as np
import pytest

import pgjax
from pgjax.cli import app
from pgjax.runs.folder import read_lines

ROOT = Path(__file__).parents[1]

jax.config.update("jax_cpu_enable_async_dispatch", False)  # only for speed; see docs/compilation.md
gc.set_threshold(50_000, 20, 100)  # for speed, too: tracing makes many objects and little garbage
jax.config.update("jax_numpy_rank_promotion", "raise")
# The check that no key is used twice is slow, so it runs only in these modules.
DRAWING = {"test_distributions", "test_noise", "test_episodes"}


@pytest.fixture(autouse=True)
def _each_key_once(request):
    with jax.debug_key_reuse(request.module.__name__ in DRAWING):
        yield


class _ReleaseCompiledFunctions:
    """Frees the compiled programs of a file after its last test; a worker would keep them all."""

    def pytest_runtest_teardown(self, item, nextitem):
        if nextitem is None or nextitem.path != item.path:
            jax.clear_caches()
            gc.collect()
            with contextlib.suppress(AttributeError, OSError):  # only glibc has it
                ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system


def pytest_configure(config):
    # As a plugin, so that it also serves the doctests outside this folder.
    config.pluginmanager.register(_ReleaseCompiledFunctions())


def import_with_torch(name):
    """Import a module that needs torch, or skip the test if a newer Python has no torch.

    On Python 3.11, the only one with a CPU build of reasonable size, torch must be installed.
    """
    if sys.version_info >= (3, 12):
        pytest.importorskip("torch")
    return importlib.import_module(name)


FAST = ("--updates", "3", "--episodes-per-update", "4", "--eval-episodes", "5")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """Folder of a short run of CartPole, shared by all tests: copy it before you change it."""
    path = tmp_path_factory.mktemp("runs") / "run"
    app.main(["train", "CartPole-v1", *FAST, "--run-dir", str(path)])
    return path


def train_again(path, *options):
    """Train as `run_dir` was, with other options; return the digest of the parameters."""
    app.main(["train", "CartPole-v1", *FAST, "--run-dir", str(path), *options])
    return json.loads((path / "manifest.json").read_text())["params_sha256"]


def rows_of(run):
    """The metrics of each update of a run."""
    return read_lines(run.path / "metrics.jsonl")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make_rollout(rng, lengths, obs_dim=4, action=None, time=None, terminated=True, padding=0.0):
    """Return random experience with columns of the given lengths, padded to `time` steps."""
    time = time or max(lengths)
    shape = (time, len(lengths))
    steps = np.arange(time)[:, None]
    real = steps < np.array(lengths)
    last = steps == np.array(lengths) - 1
    obs = rng.normal(size=(*shape, obs_dim)).astype(np.float32)
    next_obs = rng.normal(size=(*shape, obs_dim)).astype(np.float32)
    action = rng.integers(2, size=shape) if action is None else action(shape)
    reward = rng.normal(size=shape).astype(np.float32)
    for leaf in (obs, next_obs, reward, action):
        if np.issubdtype(leaf.dtype, np.floating):
            leaf[~real] = padding
    return pgjax.Rollout(
        obs=obs,
        action=action,
        reward=reward,
        terminated=last & np.broadcast_to(terminated, (len(lengths),)),
        truncated=last & ~np.broadcast_to(terminated, (len(lengths),)),
        next_obs=next_obs,
        weight=real.astype(np.float32),
    )


def assert_trees_equal(a, b):
    """Check that two trees have the same bits in every leaf; keys are compared by their data."""

    def plain(x):
        is_key = isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(plain(x), plain(y))
