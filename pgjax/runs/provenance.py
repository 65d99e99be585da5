"""What the bits of a result depend on besides the config: versions, processor, flags."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from pgjax.config.env import env_spec
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError

_PACKAGES = ("pgjax", "jax", "jaxlib", "flax", "optax", "numpy", "gymnasium")
# Modules of engines whose version changes what an environment does.
_ENGINES = set(
    "mujoco mujoco_py mujoco_warp dm_control Box2D pybullet brax envpool ale_py vizdoom nle "
    "procgen gymnax jumanji retro stable_retro".split()
)
_FLAGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_matmul_precision",
    "jax_disable_jit",
)
_FIELDS = ("Name", "Version")  # of a package's metadata
_VECTORS = ("avx", "fma", "f16c", "sse", "amx", "sve", "asimd")


def machine_facts(config: TrainConfig) -> dict[str, Any]:
    """Versions, platform and flags as a flat dict, for comparison between machines."""
    device = jax.devices()[0]
    versions = {f"{name} version": _version(name) for name in _PACKAGES}
    return {
        "python version": platform.python_version(),
        **versions,
        **_of_environment(config),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu features": _cpu_features(),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "threads": threads(),
        **{name: str(jax.config.values.get(name)) for name in _FLAGS},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def require_device() -> None:
    """Raise ConfigError if JAX finds no device to compute on."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as e:
        asked, reason = os.environ.get("JAX_PLATFORMS", ""), str(e).partition(". ")[0]
        raise ConfigError(
            f"JAX finds no device for JAX_PLATFORMS={asked!r} ({reason or 'no reason given'}): "
            "unset it, or set it to cpu"
        ) from None


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """List what differs between two machines, one line each."""
    names = [name for name in here if here[name] != there.get(name)]
    return [f"{name}: {here[name]} here, {there.get(name)} there" for name in names]


def threads() -> int:
    """Return the number of threads of XLA's CPU backend: NPROC if set, else the available cores."""
    asked = os.environ.get("NPROC", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def source() -> dict[str, Any]:
    """Return the git commit of pgjax itself, and whether its files differ from it.

    Both are None if pgjax is not used from a git repository of its own.
    """
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # it may be installed inside another one
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}


def installed_packages() -> dict[str, str]:
    """Return the version of every package that is installed, by its normalised name, sorted."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # Several times faster than `distribution.version`, which parses everything.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name, version = (re.search(rf"^{x}: *(.+)$", text, re.MULTILINE) for x in _FIELDS)
        if name and version:  # the first one on the path is the one that is imported
            normalised = re.sub(r"[-_.]+", "-", name[1].strip()).lower()
            found.setdefault(normalised, version[1].strip())
    return dict(sorted(found.items()))


def environment_source(config: TrainConfig) -> dict[str, str | None]:
    """Return the module that an environment comes from, and the version of its package.

    Both are None where it was registered without a module, as in a notebook.
    """
    module = _module_of(config)
    if module in ("", "__main__"):
        return {"module": None, "version": None}
    return {"module": module, "version": _version(module)}


def _of_environment(config: TrainConfig) -> dict[str, str]:
    """Return the versions of what an environment comes from, besides Gymnasium: {name: version}.

    These are the packages that provide it and its wrappers, and the physics engines and emulators
    that are loaded.
    """
    named = {_module_of(config), *(re.split("[.:]", name)[0] for name in config.wrappers)}
    modules = named | _ENGINES & sys.modules.keys()
    modules -= {"", "gymnasium", "pgjax", "__main__"}
    return {f"{name} version": _version(name) for name in sorted(modules)}


def _module_of(config: TrainConfig) -> str:
    """Return the top-level module that makes an environment; empty if it is not known."""
    spec = env_spec(config)
    entry = spec.entry_point if spec else None
    if not isinstance(entry, str):
        # Of a partial, the module of its function.
        entry = getattr(getattr(entry, "func", entry), "__module__", None) or ""
    return re.split("[.:]", entry)[0]


def _version(module: str) -> str:
    """Return the version of a package, or of the one that a module belongs to.

    "not installed" if there is none, as in a source tree.
    """
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        found = importlib.metadata.packages_distributions().get(module, [])
        names = [name for name in found if name != module]
    return ", ".join(f"{x} {importlib.metadata.version(x)}" for x in names) or "not installed"


def _cpu_features() -> str:
    """The vector instructions of the processor, if the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    found = named.partition(":")[2].split()
    return " ".join(sorted(name for name in found if name.startswith(_VECTORS)))
