from importlib import metadata

import jax
import pytest

import pgjax
from pgjax.runs import provenance


def test_a_source_tree_need_not_be_installed(monkeypatch):
    version = metadata.version

    def missing(package):
        if package == "pgjax":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", missing)
    facts = provenance.machine_facts("CartPole-v1")
    assert facts["pgjax version"] == "not installed"
    assert facts["numpy version"] == version("numpy")


def test_a_missing_device_is_reported(monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'abacus': no such thing. (advice)")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(pgjax.ConfigError, match="no such thing.: unset it, or set it to cpu"):
        provenance.require_device()
