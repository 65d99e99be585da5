import dataclasses
import re
import subprocess
import tracemalloc

import gymnasium as gym
import numpy as np
import pytest
from echo_env import ACTING, colour, echo_run, modes_by_hand
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

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


class Movie(gym.Env):
    """Episodes of `length` steps whose pictures, by default, all differ."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, length=2, size=(6, 8), picture=None, **metadata):
        self.render_mode, self._length = render_mode, length
        self._size, self._picture = size, picture
        self.metadata = {"render_modes": ["human", "rgb_array"], **metadata}

    def reset(self, *, seed=None, options=None):
        self._t = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self._t += 1
        return np.zeros(4, np.float32), 1.0, self._t == self._length, False, {}

    def render(self):
        if self._picture is not None:
            return self._picture(self._t)
        return np.full((*self._size, 3), (self._t % 2) * 200 + self._t % 50, np.uint8)


@pytest.fixture
def movie(run_dir):
    """(settings of Movie) -> the run of `run_dir` in that environment."""

    def make(limit=10**6, **settings):
        gym.registry.pop("Movie-v0", None)
        gym.register("Movie-v0", Movie, max_episode_steps=limit, kwargs=settings)
        run = load(run_dir)
        return run._replace(config=dataclasses.replace(run.config, env_id="Movie-v0"))

    return make


def delays(path):
    """Delays of a .gif's frames, in milliseconds."""
    with Image.open(path) as image:
        found = []
        for i in range(image.n_frames):
            image.seek(i)
            found.append(image.info["duration"])
    return found


@pytest.mark.parametrize(
    ("fps", "num_images", "most"),
    [(10, 20, 100), (30, 60, 40), (50, 100, 20), (60, 120, 20), (67, 134, 20), (125, 250, 20)],
)
def test_two_seconds_last_two_seconds_in_a_gif(fps, num_images, most, movie, tmp_path):
    out = video.render(movie(render_fps=fps, length=num_images - 1), tmp_path / "a.gif")
    found = delays(out)
    assert sum(found) == 2000
    assert len(found) == min(num_images, 100)
    assert min(found) >= 20  # viewers show shorter ones for 100 ms
    assert max(found) == most


def test_a_gif_leaves_out_frames_evenly(movie, tmp_path):
    """At 60 frames per second every sixth; the frame at 50/60 of a step is that before it."""
    picture = [np.full((2, 2, 3), 10 * t, np.uint8) for t in range(13)]
    run = movie(render_fps=60, length=12, picture=picture.__getitem__)
    shown = []
    with Image.open(video.render(run, tmp_path / "a.gif")) as image:
        for i in range(image.n_frames):
            image.seek(i)
            shown.append(image.convert("RGB").getpixel((0, 0))[0] // 10)
    # Image t is shown at 50/60 t rounded down, if that is a new place.
    assert shown == [0, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(("size", "shown"), [((6, 8), "8x6"), ((5, 7), "8x6"), ((1, 1), "2x2")])
def test_an_mp4_has_the_right_duration_and_an_even_size(size, shown, movie, tmp_path):
    out = video.render(movie(render_fps=60, length=119, size=size), tmp_path / "a.mp4")
    said = subprocess.run([get_ffmpeg_exe(), "-i", out], capture_output=True, text=True).stderr
    assert "Duration: 00:00:02.00" in said
    assert re.search(rf"yuv420p.* {shown}.* 60 fps", said)


def test_an_mp4_does_not_keep_its_images(movie, tmp_path):
    def peak(length):
        run = movie(length=length, size=(100, 100))
        tracemalloc.start()
        video.render(run, tmp_path / "a.mp4")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)  # import
    assert peak(110) < peak(10) + 1e6  # 100 images have 3 MB


def test_an_episode_without_a_time_limit_is_cut_off(movie, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_STEPS", 20)
    run = movie(limit=None, length=10**9)
    with pytest.warns(pgjax.RunWarning, match="no time limit: 2 episodes cut off after 20 steps"):
        assert len(video.frames(run, 2)) == 2 * 21
    assert len(video.frames(movie(limit=30, length=10**9))) == 31


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "fast", True])
def test_a_frame_rate_that_cannot_be_used_is_replaced(fps, movie, tmp_path):
    with pytest.warns(pgjax.RunWarning, match=r"render_fps .* 0.01 to 10,000"):
        out = video.render(movie(render_fps=fps, length=2), tmp_path / "a.gif")
    assert delays(out) == [30, 40, 30]  # 30 frames per second


@pytest.mark.parametrize("metadata", [{}, {"render_fps": None}])
def test_a_frame_rate_that_is_missing_is_30(metadata, movie, tmp_path):
    assert delays(video.render(movie(length=2, **metadata), tmp_path / "a.gif")) == [30, 40, 30]


def image(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


def raising(error):
    def render(time):
        raise error

    return render


PYGAME = 'pygame is not installed, run `pip install "gymnasium[classic-control]"`'


@pytest.mark.parametrize(("picture", "words"), [
    (lambda t: None if t else image(4, 4, 3), "renders None, not an array"),
    (lambda t: image(0, 4, 3), r"an array \[0, 4, 3\] of uint8, not"),
    (lambda t: image(4, 4, 3, dtype=np.float64), "of float64, not"),
    (lambda t: image(4, 4, 4), r"\[4, 4, 4\] of uint8, not"),
    (lambda t: image(4, 4), r"\[4, 4\] of uint8, not"),
    (lambda t: image(1, 4, 4, 3), r"\[1, 4, 4, 3\] of uint8, not"),
    (lambda t: [[1], [1, 2]], "not an array"),
    (lambda t: "text", "renders 'text', not an array"),
    (lambda t: image(4 + t, 4, 3), r"different shapes, \(4, 4, 3\) and \(5, 4, 3\)"),
    (raising(ZeroDivisionError("x")), "it raised ZeroDivisionError: x .*: fix its render method"),
    (raising(gym.error.DependencyNotInstalled(PYGAME)), re.escape(f"cannot be rendered: {PYGAME}")),
    (raising(ModuleNotFoundError("No module named 'cv'")), "named 'cv' .*: install what"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_a_wrong_image_is_reported_and_nothing_is_written(picture, words, name, movie, tmp_path):
    with pytest.raises(pgjax.ConfigError, match=f"^Movie-v0 .*{words}"):
        video.render(movie(picture=picture), tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


def test_mujoco_without_a_display_names_the_variable_to_set(movie, tmp_path, monkeypatch):
    monkeypatch.setattr(Movie, "mujoco_renderer", None, raising=False)
    run = movie(picture=raising(RuntimeError("an OpenGL platform library has not been loaded")))
    with pytest.raises(pgjax.ConfigError, match="OpenGL .*MUJOCO_GL to egl or osmesa"):
        video.render(run, tmp_path / "a.gif")


@pytest.mark.parametrize(
    ("modes", "words"), [(["human", "ansi"], "its modes: human, ansi"), ([], "its modes: none")]
)
def test_a_missing_render_mode_names_the_modes_there_are(modes, words, movie, tmp_path):
    with pytest.raises(pgjax.ConfigError, match=f"no render mode rgb_array .{words}"):
        video.render(movie(render_modes=modes), tmp_path / "a.gif")


def test_an_environment_that_takes_no_render_mode(run_dir, tmp_path):
    gym.register("NoMode-v0", entry_point=lambda: gym.make("CartPole-v1"))
    run = load(run_dir)
    run = run._replace(config=dataclasses.replace(run.config, env_id="NoMode-v0"))
    with pytest.raises(pgjax.ConfigError, match="NoMode-v0 cannot be rendered: it takes no render"):
        video.render(run, tmp_path / "a.gif")


def test_an_image_that_stands_still_for_too_long_for_a_gif(movie, tmp_path):
    still = movie(render_fps=0.01, length=7, picture=lambda t: image(2, 2, 3))  # 800 s
    with pytest.raises(pgjax.RunError, match=r"do not fit into a .gif .* write an .mp4"):
        video.render(still, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in ACTING if name != "env_id"])
def test_a_video_shows_the_actions_that_every_field_says(name, tmp_path):
    settings, meaning = ACTING[name]
    run = echo_run(tmp_path, **settings)
    sent = modes_by_hand(run.state.params, **meaning)
    frames = video.frames(run)
    shown = [int(frame[0, 0, 0]) for frame in frames]
    np.testing.assert_allclose(shown, [colour(0.0), *colour(sent)], atol=1)  # rounded
