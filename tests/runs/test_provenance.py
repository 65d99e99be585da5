import subprocess
import sys
import types
from importlib import metadata

import gymnasium as gym
import jax
import pytest
from conftest import ROOT

import pgjax
from pgjax.runs import provenance


def test_a_source_tree_need_not_be_installed(monkeypatch):
    version = metadata.version

    def missing(package):
        if package == "pgjax":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", missing)
    facts = provenance.machine_facts(pgjax.TrainConfig("CartPole-v1"))
    assert facts["pgjax version"] == "not installed"
    assert facts["numpy version"] == version("numpy")


def test_a_missing_device_is_reported(monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'abacus': no such thing. (advice)")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(pgjax.ConfigError, match="no such thing.: unset it, or set it to cpu"):
        provenance.require_device()


def test_the_commit_is_that_of_pgjax_and_not_of_the_current_folder(tmp_path, monkeypatch):
    def git(*arguments):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    ours = git("-C", str(ROOT), "rev-parse", "HEAD")
    changed = git("-C", str(ROOT), "status", "--porcelain", "-uno", "--", "pgjax")
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    assert provenance.source() == {"git_commit": ours, "git_dirty": bool(changed)}
    # Installed inside a repository that does not hold it, it has no commit.
    (tmp_path / "site" / "runs").mkdir(parents=True)
    (tmp_path / "site" / "__init__.py").touch()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site" / "runs" / "provenance.py"))
    assert provenance.source() == {"git_commit": None, "git_dirty": None}
    git("add", "-f", "site/__init__.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "y")
    assert provenance.source() == {"git_commit": git("rev-parse", "HEAD"), "git_dirty": False}
    (tmp_path / "site" / "__init__.py").write_text("changed")
    assert provenance.source()["git_dirty"] is True


def test_the_versions_of_what_an_environment_comes_from_are_recorded(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", types.ModuleType("mujoco"))
    version = metadata.version
    known = {"mujoco": "3.9", "some_envs": "1.2"}
    monkeypatch.setattr(metadata, "version", lambda name: known.get(name) or version(name))
    gym.register("Provided-v0", entry_point="some_envs.all:Env")
    facts = provenance.machine_facts(pgjax.TrainConfig("Provided-v0"))
    assert facts["mujoco version"] == "3.9"
    assert facts["some_envs version"] == "1.2"
    assert "mujoco version" in provenance.machine_facts(pgjax.TrainConfig("CartPole-v1"))
    del gym.registry["Provided-v0"]
