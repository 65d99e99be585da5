"""Every public function and class has a docstring with an example, which pytest runs."""

import doctest
import inspect
import types

import pytest

import pgjax
from pgjax.envs import tabular

MODULES = [
    pgjax,
    pgjax.advantages,
    pgjax.diagnostics,
    pgjax.distributions,
    pgjax.envs,
    tabular,
    pgjax.gradcheck,
    pgjax.losses,
    pgjax.policies,
    pgjax.returns,
    pgjax.runs,
    pgjax.video,
    pgjax.actions,
]


def public():
    """Functions and classes of pgjax's own that a user can reach by a public name."""
    found = {}
    for module in MODULES:
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            if name.startswith("_") or isinstance(value, types.ModuleType):
                continue
            home = getattr(value, "__module__", "")
            if home.startswith("pgjax") if hasattr(module, "__all__") else home == module.__name__:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


PUBLIC = public()


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_has_a_docstring_with_an_example(name):
    doc = inspect.getdoc(PUBLIC[name])
    assert doc
    assert doctest.DocTestParser().get_examples(doc), f"{name} has no >>> example"


def test_the_list_is_not_empty_by_mistake():
    expected = {"pgjax.algorithms.reinforce.reinforce", "pgjax.types.Rollout", "pgjax.returns.gae"}
    assert expected < PUBLIC.keys()
    assert len(PUBLIC) > 80
