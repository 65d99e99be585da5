"""What trackers receive; tests/training/test_resume.py has them follow whole runs."""

import importlib.machinery
import struct
import sys
import types

import gymnasium as gym
import pytest

import pgjax
from pgjax.cli import app, trackers
from pgjax.cli.trackers import TrackerOptions, make_trackers
from pgjax.runs import recorder
from pgjax.training.loop import RunInfo

CONFIG = pgjax.TrainConfig("CartPole-v1", hidden_sizes=(8, 4), run_dir="there")
ROWS = [{"update": u, "mean_return": 10.0 * u, "total_episodes": u} for u in (1, 2, 3)]


class Wandb(types.ModuleType):
    """Stands in for wandb, and keeps what it receives."""

    Settings = staticmethod(dict)

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.runs, self.logins, self.fails = [], 0, False

    def login(self):
        self.logins += 1
        if self.fails:
            raise ValueError("no API key\nis configured")

    def init(self, **options):
        if self.fails:
            raise ValueError("no network")
        self.runs.append(options)
        return types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)


@pytest.fixture
def wandb(monkeypatch):
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def follow(options, paths):
    """Make trackers that follow a run of three updates, resumed after the first."""
    observer = make_trackers(options)
    for path in paths:
        path.mkdir(parents=True)
        (path / "metrics.jsonl").write_bytes(recorder.json_lines(ROWS))
    space = gym.spaces.Discrete(2)
    configs = [CONFIG] * len(paths)
    observer.start(RunInfo(configs, paths, space, space, pgjax.SoftmaxPolicy(2)))
    for row in ROWS[1:]:
        observer.update([row] * len(paths), {"steps_per_second": 1.0})
    observer.stop()


def test_wandb_is_offline_and_named_after_the_folder_by_default(wandb, tmp_path):
    follow(TrackerOptions(wandb=True), [tmp_path / "my run"])
    [run] = wandb.runs
    assert run["mode"] == "offline"
    assert (run["project"], run["group"], run["tags"], run["name"]) == ("pgjax", None, [], "my run")
    assert run["config"] == CONFIG.to_json()
    assert wandb.logins == 0


def test_wandb_options(wandb, tmp_path):
    options = TrackerOptions(
        wandb=True, wandb_mode="online", wandb_project="a", wandb_group="b", wandb_tags=("c", "d"),
        wandb_name="e",
    )  # fmt: skip
    follow(options, [tmp_path / "run"])
    [run] = wandb.runs
    assert run["mode"] == "online"
    assert (run["project"], run["group"], run["tags"], run["name"]) == ("a", "b", ["c", "d"], "e")
    assert wandb.logins == 1


def test_seeds_are_a_group_of_runs_in_wandb(wandb, tmp_path):
    paths = [tmp_path / "study" / f"seed-{seed}" for seed in (4, 5)]
    follow(TrackerOptions(wandb=True), paths)
    assert [(r["group"], r["name"]) for r in wandb.runs] == [
        ("study", "seed-4"), ("study", "seed-5")
    ]  # fmt: skip
    wandb.runs.clear()
    others = [tmp_path / "more" / path.name for path in paths]
    follow(TrackerOptions(wandb=True, wandb_group="g", wandb_name="n"), others)
    assert [(r["group"], r["name"]) for r in wandb.runs] == [("g", "n-seed-4"), ("g", "n-seed-5")]


def test_wandb_that_cannot_start_says_what_to_do(wandb, tmp_path):
    wandb.fails = True
    advice = "run wandb login, or use --wandb-mode offline"
    with pytest.raises(pgjax.ConfigError, match=advice) as error:  # before anything starts
        make_trackers(TrackerOptions(wandb=True, wandb_mode="online"))
    assert "\n" not in str(error.value)
    with pytest.raises(pgjax.ConfigError, match=advice):
        follow(TrackerOptions(wandb=True), [tmp_path / "run"])


def test_options_reach_the_tracker_from_the_command_line(monkeypatch, tmp_path, capfd):
    seen = []

    def make(options):
        seen.append(options)
        raise pgjax.ConfigError("enough")

    monkeypatch.setattr("pgjax.cli.train.make_trackers", make)
    words = "--wandb --wandb-mode online --wandb-tags a b --wandb-group g --tensorboard".split()
    for command in (["train", "CartPole-v1"], ["resume", str(tmp_path)]):
        with pytest.raises(SystemExit):
            app.main([*command, *words])
    for options in seen:
        assert options.wandb
        assert options.tensorboard
        assert (options.wandb_mode, options.wandb_tags, options.wandb_group) == (
            "online", ("a", "b"), "g"
        )  # fmt: skip
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--wandb-project mine", "--wandb-project is a setting of --wandb: add --wandb"),
        ("--wandb-mode online", "--wandb-mode is a setting"),
        ("--wandb", '--wandb needs pip install "pgjax[wandb]"'),
        ("--tensorboard", '--tensorboard needs pip install "pgjax[tensorboard]"'),
    ],
)
def test_what_is_missing_is_said_in_one_line(options, words, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        app.main(["train", "CartPole-v1", *options.split()])
    assert stop.value.code == 2
    [line] = capfd.readouterr().err.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def events(path):
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_tensorboard_has_the_settings_with_the_final_metrics(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    follow(TrackerOptions(tensorboard=True), [tmp_path / "run"])
    [file] = (tmp_path / "run" / "tensorboard").iterdir()  # one run, and not one more for settings
    values = {v.tag: v for event in events(file) for v in event.summary.value}
    assert values["mean_return"].simple_value == 30.0  # the last value is that of the table

    def content(tag):
        data = values[f"_hparams_/{tag}"].metadata.plugin_data
        assert data.plugin_name == "hparams"
        return HParamsPluginData.FromString(data.content)

    started = content("session_start_info").session_start_info.hparams
    assert started["learning_rate"].number_value == CONFIG.learning_rate
    assert started["hidden_sizes"].string_value == "(8, 4)"
    assert started["critic"].bool_value is False
    assert started["max_grad_norm"].string_value == "None"
    assert started.keys() == CONFIG.to_json().keys()
    metrics = content("experiment").experiment.metric_infos
    assert {metric.name.tag for metric in metrics} == {"mean_return", "total_episodes"}
    assert content("session_end_info").session_end_info.status != 0
