import dataclasses

import gymnasium as gym
import pytest

import pgjax
from pgjax.cli import app
from pgjax.evaluation import evaluate, video
from pgjax.runs.run import load


def test_render(run_dir, tmp_path):
    run = load(run_dir)
    frames = video.frames(run, seed=3)
    length = evaluate.evaluate(run, 1, seed=3)["mean_length"]
    assert len(frames) == length + 1
    assert frames[0].shape == (400, 600, 3)
    app.main(["render", str(run_dir), "--out", str(tmp_path / "new" / "video.gif"), "--seed", "3"])
    app.main(["render", str(run_dir), "--out", str(tmp_path / "video.mp4")])
    assert (tmp_path / "new" / "video.gif").read_bytes().startswith(b"GIF")
    assert b"ftyp" in (tmp_path / "video.mp4").read_bytes()[:16]


class Blind(gym.Wrapper):
    def render(self):
        return None


def test_an_environment_without_frames_is_not_rendered(run_dir, tmp_path):
    def make(render_mode=None):
        return Blind(gym.make("CartPole-v1", render_mode=render_mode))

    gym.register("Blind-v0", entry_point=make)
    run = load(run_dir)
    run = run._replace(config=dataclasses.replace(run.config, env_id="Blind-v0"))
    for name in ("video.gif", "video.mp4"):
        with pytest.raises(pgjax.ConfigError, match="Blind-v0 renders None, not an array"):
            video.render(run, tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []
