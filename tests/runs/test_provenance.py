import shutil
import subprocess
import sys
import types
from importlib import metadata

import gymnasium as gym
import jax
import pytest
from conftest import ROOT

import pgjax
from pgjax.cli import app
from pgjax.runs import provenance, store


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


def test_every_installed_package_is_listed(tmp_path, monkeypatch):
    for name, file, text in (
        ("One.Two_three-1.dist-info", "METADATA", "Name: One.Two_three\nVersion: 1.0rc1\n\ntext"),
        ("Old-2.egg-info", "PKG-INFO", "Metadata-Version: 1\nName: Old\nVersion: 2\n"),
        ("Broken-3.dist-info", "METADATA", "no fields"),
        ("Empty-4.dist-info", "RECORD", ""),
    ):
        (tmp_path / "first" / name).mkdir(parents=True)
        (tmp_path / "first" / name / file).write_text(text)
    hidden = tmp_path / "second" / "old-9.dist-info"
    hidden.mkdir(parents=True)
    (hidden / "METADATA").write_text("Name: old\nVersion: 9\n")  # never imported
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert list(provenance.installed_packages().items()) == [
        ("old", "2"),
        ("one-two-three", "1.0rc1"),
    ]


def test_the_list_agrees_with_importlib():
    found = provenance.installed_packages()
    assert found["jax"] == metadata.version("jax")
    assert found["lazy-loader"] == metadata.version("lazy_loader")
    assert list(found) == sorted(found)


def test_the_package_of_the_environment_is_named():
    gymnasium = metadata.version("gymnasium")
    assert provenance.environment_source(pgjax.TrainConfig("CartPole-v1")) == {
        "module": "gymnasium", "version": gymnasium
    }  # fmt: skip
    nowhere = {"module": None, "version": None}
    assert provenance.environment_source(pgjax.TrainConfig("Unknown-v0")) == nowhere
    gym.register("Scripted-v9", entry_point=type("Env", (), {"__module__": "__main__"}))
    gym.register("Local-v9", entry_point="no_such_package.envs:Env")
    assert provenance.environment_source(pgjax.TrainConfig("Scripted-v9")) == nowhere
    assert provenance.environment_source(pgjax.TrainConfig("a:Local-v9")) == {
        "module": "no_such_package", "version": "not installed"
    }  # fmt: skip
    del gym.registry["Scripted-v9"], gym.registry["Local-v9"]


def test_packages_are_in_the_manifest_but_are_not_compared(run_dir, tmp_path, capfd):
    manifest = store.read_sealed(run_dir / "manifest.json")
    assert manifest["packages"] == provenance.installed_packages()
    assert manifest["environment"]["module"] == "gymnasium"
    shutil.copytree(run_dir, tmp_path / "run")
    packages = {**manifest["packages"], "jax": "0.0.1", "something": "1"}
    store.write_sealed(
        tmp_path / "run" / "manifest.json", {**manifest, "packages": packages, "updates": 2}
    )
    app.main(["resume", str(tmp_path / "run")])
    assert "another machine" not in capfd.readouterr().err
    resumed = store.read_sealed(tmp_path / "run" / "manifest.json")
    assert resumed["resumed"] == [{"update": 3, "differs": []}]
    assert resumed["packages"] == packages  # those that the run began with
