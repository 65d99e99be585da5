import importlib.metadata

import pytest

from pgjax.runs import provenance


@pytest.fixture
def source_tree(monkeypatch):
    """Run as from a source tree, where pgjax itself has no package metadata."""
    version = importlib.metadata.version

    def find(name):
        if name == "pgjax":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", find)


def test_a_package_without_metadata_is_recorded_as_not_installed(source_tree):
    facts = provenance.machine_facts("CartPole-v1")
    assert facts["pgjax version"] == "not installed"
    assert facts["numpy version"] == importlib.metadata.version("numpy")


def test_differences_names_what_differs():
    here = {"jax version": "0.10", "threads": 2}
    there = {"jax version": "0.9", "threads": 2}
    assert provenance.differences(here, there) == ["jax version: 0.10 here, 0.9 there"]


def test_machine_facts_do_not_differ_from_themselves():
    facts = provenance.machine_facts("CartPole-v1")
    assert provenance.differences(facts, facts) == []
