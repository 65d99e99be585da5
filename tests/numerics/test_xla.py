import jax
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


def test_options_that_xla_does_not_know_are_left_out():
    with_it = xla.cpu_options(xla_backend_optimization_level="1")
    assert with_it == {"xla_backend_optimization_level": "1"}
    assert xla.cpu_options(xla_backend_optimization_level="1", no_such_option=True) == {}
