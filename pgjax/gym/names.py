"""The names of environments: which are registered, and what a misspelt one may mean."""

import difflib

import gymnasium as gym

_MOST = 4  # names to suggest


def is_registered(env_id: str) -> bool:
    """Whether Gymnasium knows an environment, with or without its version.

    True for module:Id, since the module may register it.
    """
    return ":" in env_id or any(env_id in (known, _split(known)[0]) for known in gym.registry)


def similar_ids(env_id: str) -> list[str]:
    """Return the registered ids that a misspelt one may mean, the most likely first.

    These are other versions and capitalisations of its name, the newest version first; if there
    are none, the newest versions of similar names.

    >>> similar_ids("Cartpole-v1"), similar_ids("Acrobat-v1")
    (['CartPole-v1'], ['Acrobot-v1'])
    """
    name, version = _split(env_id)
    families: dict[str, list[str]] = {}
    for known in sorted(gym.registry, key=lambda known: _split(known)[1], reverse=True):
        families.setdefault(_split(known)[0].lower(), []).append(known)
    if of_name := families.get(name.lower()):
        return [x for x in of_name if _split(x)[1] == version] or of_name[:_MOST]
    close = difflib.get_close_matches(name.lower(), families, n=_MOST, cutoff=0.7)
    return [families[found][0] for found in close]


def suggestion(env_id: str) -> str:
    """Say what a misspelt id may mean, in a phrase; empty if no name is similar."""
    similar = similar_ids(env_id)
    if not similar:
        return ""
    named, name = " or ".join(similar), _split(env_id)[0]
    if all(_split(known)[0] == name for known in similar):
        return f"there are other versions of it: use {named}"
    if all(_split(known)[0].lower() == name.lower() for known in similar):
        return f"capitals matter: use {named}"
    return f"there is none of this name; did you mean {named}?"


def _split(env_id: str) -> tuple[str, int]:
    """Split an id into its name and its version, or -1 without one."""
    name, _, version = env_id.rpartition("-v")
    return (name, int(version)) if name and version.isdecimal() else (env_id, -1)
