import gymnasium as gym
import pytest

from pgjax.gym import names


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    ids = ["Pole-v0", "Pole-v2", "Pole-v10", "Walker-v1", "Walker2D-v3", "a/Pole-v1", "Old"]
    monkeypatch.setattr(gym, "registry", dict.fromkeys(ids))


@pytest.mark.parametrize(
    ("env_id", "similar"),
    [
        ("Pole-v9", ["Pole-v10", "Pole-v2", "Pole-v0"]),  # the newest first, by number
        ("pole-v2", ["Pole-v2"]),
        ("POLE", ["Pole-v10", "Pole-v2", "Pole-v0"]),
        ("Wolker-v1", ["Walker-v1", "Walker2D-v3"]),
        ("A/Pole-v1", ["a/Pole-v1"]),
        ("old-v1", ["Old"]),
        ("NoSuchThing-v0", []),
        ("-v1", []),
        ("", []),
    ],
)
def test_similar_ids(env_id, similar):
    assert names.similar_ids(env_id) == similar


def test_the_suggestion_says_what_is_wrong():
    assert names.suggestion("Pole-v9") == (
        "there are other versions of it: use Pole-v10 or Pole-v2 or Pole-v0"
    )
    assert names.suggestion("pole-v2") == "capitals matter: use Pole-v2"
    assert names.suggestion("Poel-v2").endswith("did you mean Pole-v10?")
    assert names.suggestion("NoSuchThing-v0") == ""


@pytest.mark.parametrize("env_id", ["Pole-v2", "Pole", "Old", "module:Anything-v0"])
def test_registered(env_id):
    assert names.is_registered(env_id)


@pytest.mark.parametrize("env_id", ["Pole-v1", "pole-v2", "Ol", "", "-"])
def test_not_registered(env_id):
    assert not names.is_registered(env_id)
