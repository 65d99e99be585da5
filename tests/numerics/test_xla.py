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
