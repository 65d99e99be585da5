import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax.numerics import xla


def test_out_of_memory_becomes_a_run_error_that_says_what_to_lower():
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nand a long list")
    words = "lower --episodes-per-update"
    with pytest.raises(pgjax.RunError, match=words) as raised, xla.translate_xla_errors():
        raise error
    assert str(raised.value).endswith("(RESOURCE_EXHAUSTED: 9 bytes)")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED"),
        jax.errors.JaxRuntimeError("INTERNAL: no"),
        pgjax.RunError("RESOURCE_EXHAUSTED"),
    ],
)
def test_other_errors_are_unchanged(error):
    with pytest.raises(type(error)) as raised, xla.translate_xla_errors():
        raise error
    assert raised.value is error


def test_background_compilation_returns_its_result_or_its_error():
    assert xla.compile_in_background(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        xla.compile_in_background(lambda: 1 // 0).result()


@pytest.mark.parametrize("configured", [False, True])
def test_the_compile_cache_is_the_users_unless_configured(tmp_path, configured):
    script = """
import jax, pgjax
print(pgjax.enable_compile_cache())
jax.jit(lambda x: jax.random.normal(jax.random.key(x)))(1)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "users")}
    if configured:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "own")
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    folder = Path(run.stdout.strip())
    assert folder == (tmp_path / "own" if configured else tmp_path / "users" / "pgjax" / "compiled")
    if not configured:  # JAX's own limit of a second stays where the user has configured a folder
        assert any(folder.iterdir())


def test_a_function_with_metrics_is_traced_inside_of_a_trace():
    double = xla.jit_with_metrics(lambda x: (2 * x, {"x": x, "n": x.astype(int) + 1}))
    result, metrics = double(np.float32(1.5))
    assert (float(result), metrics) == (3.0, {"n": 2, "x": 1.5})
    assert {type(value) for value in metrics.values()} == {np.float32, np.int32}
    gradient, info = jax.grad(double, has_aux=True)(1.5)
    assert (float(gradient), float(info["x"])) == (2.0, 1.5)
    # Nothing that is passed here is traced, and yet it is inside of a jit.
    assert jax.jit(lambda: double(jnp.float32(1.5))[1]["n"])() == 2
    assert "multiply" in double.lower(1.5).as_text()
    results, many = jax.vmap(double)(jnp.arange(3.0))
    assert (results.tolist(), many["n"].tolist()) == ([0.0, 2.0, 4.0], [1, 2, 3])


def test_options_that_xla_does_not_know_are_left_out():
    with_it = xla.cpu_options(xla_backend_optimization_level="1")
    assert with_it == {"xla_backend_optimization_level": "1"}
    assert xla.cpu_options(xla_backend_optimization_level="1", no_such_option=True) == {}


def test_computing_few_at_once_changes_no_array():
    special = np.array([np.nan, -0.0, np.inf, -np.inf, 1.5], np.float32)
    arrays = [special * k for k in range(1, 9)] + [
        np.zeros((0, 3), np.float32),
        np.arange(6).reshape(2, 3),
        np.float32(7),
        np.array([True, False]),
        *(special[::-1] for _ in range(9)),
        special.astype(jnp.bfloat16),
    ]
    key = jax.random.key(3)
    done, same_key = jax.jit(lambda *x: xla.few_at_once((x[:-1], x[-1])))(*arrays, key)
    assert [x.dtype for x in done] == [jnp.asarray(x).dtype for x in arrays]
    assert [np.asarray(x).tobytes() for x in done] == [
        np.asarray(x, y.dtype).tobytes() for x, y in zip(arrays, done, strict=True)
    ]
    assert jax.random.key_data(same_key).tolist() == jax.random.key_data(key).tolist()
    assert jax.jit(lambda: xla.few_at_once({"a": 3, "b": 0.5}))() == {"a": 3, "b": 0.5}


SWITCHES = """
import pathlib, threading
import jax
jax.config.update("jax_cpu_enable_async_dispatch", False)
import numpy as np, optax, pgjax

def waits():  # how often the other threads of this process have waited
    here = str(threading.get_native_id())
    for task in pathlib.Path("/proc/self/task").iterdir():
        if task.name != here:
            lines = (task / "status").read_text().splitlines()
            yield next(int(x.split()[1]) for x in lines if x.startswith("voluntary"))

algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.01))
state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
one, no = np.ones((64, 1), np.float32), np.zeros((64, 1), bool)
obs = np.ones((64, 1, 4), np.float32)
rollout = pgjax.Rollout(obs, no.astype(np.int32), one, no, no, obs, one)
algorithm.update(state, rollout)
before = sum(waits())
for _ in range(200):
    state, info = algorithm.update(state, rollout)
print(sum(waits()) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_an_update_of_a_small_policy_wakes_no_thread():
    done = subprocess.run(
        [sys.executable, "-c", SWITCHES], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert int(done.stdout) < 20  # of 200 updates
