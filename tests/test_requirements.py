"""Packages that are too old are named in one line."""

import subprocess
import sys
from importlib import metadata

import pytest

from pgjax import requirements


@pytest.fixture(autouse=True)
def fresh():
    requirements.check.cache_clear()
    yield
    requirements.check.cache_clear()


def test_what_is_installed_is_new_enough():
    requirements.check()


@pytest.mark.parametrize(
    ("package", "version", "needed"),
    [("gymnasium", "1.0.1", "1.1"), ("numpy", "1.26.4", "2.0"), ("optax", "0.2.5", "0.2.6")],
)
def test_an_old_package_is_named_with_the_version_that_is_needed(
    package, version, needed, monkeypatch
):
    true = metadata.version
    monkeypatch.setattr(metadata, "version", lambda x: version if x == package else true(x))
    with pytest.raises(ImportError) as caught:
        requirements.check()
    message = f"{package} {version} is too old, {needed} or newer is needed"
    assert str(caught.value) == f"{message}: pip install --upgrade {package}"


@pytest.mark.parametrize("version", ["2", "2.0", "2.0.0rc1", "2.1.dev3+local", "10.0"])
def test_versions_are_compared_as_numbers(version, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=2.0", 'x>=9; extra == "y"'])
    monkeypatch.setattr(metadata, "version", lambda name: version)
    requirements.check()


OLD = """
from importlib import metadata
true = metadata.version
metadata.version = lambda name: "1.0" if name == "gymnasium" else true(name)
"""


def test_the_command_line_and_the_library_say_it_in_one_line():
    for script, code in (
        ("import sys; sys.argv = ['pgjax', '-h']; import pgjax.__main__ as m; m.main()", 2),
        ("import pgjax\ntry:\n    pgjax.train\nexcept ImportError as e:\n    print(e)", 0),
    ):
        done = subprocess.run(
            [sys.executable, "-c", OLD + script], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        [line] = (done.stderr + done.stdout).splitlines()
        assert "gymnasium 1.0 is too old, 1.1 or newer is needed" in line
