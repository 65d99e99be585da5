import re
import shutil

import pytest

import pgjax
from pgjax.cli import app
from pgjax.runs import store
from pgjax.runs.run import load


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train NoSuchThing-v0", "NoSuchThing"),
        ("train CartPole-v1 --gamma 1.5", "--gamma must be a number from 0 to 1, got 1.5"),
        ("train CartPole-v1 --learning-rate nan", "--learning-rate"),
        ("train CartPole-v1 --seed -1", "--seed must be an integer from 0"),
        ("train CartPole-v1 --updates 0", "--updates"),
        ("train CartPole-v1 --hidden-sizes 0", "--hidden-sizes"),
        ("train CartPole-v1 --estimator gae", "--critic"),
        ("train CartPole-v1 --leave-one-out --episodes-per-update 1", "at least 2 episodes"),
        ("train --seed 3 CartPole-v1", "first"),
        ("train CartPole-v1 --collect steps", "add --critic"),
        ("train CartPole-v1 --seeds 3 --num-devices 2", "add --on-device"),
        ("train CartPole-v1 --on-device --seeds 0", "--seeds"),
        ("train CartPole-v1 --num-devices 0", "--num-devices must be at least 1, got 0"),
        ("train CartPole-v1 --on-device --num-devices 999", "--num-devices 999, but there"),
        ("train CartPole-v1 --num-processes 2", "--coordinator HOST:PORT"),
        ("train CartPole-v1 --coordinator nowhere", "HOST:PORT or auto"),
        ("train FrozenLake-v1 --on-device", "CartPole-v1, Pendulum-v1, Acrobot-v1"),
        ("fly", "no command 'fly': use one of train, resume"),
        ("trian", "no command 'trian': did you mean train?"),
        ("rezume {run}", "did you mean resume?"),
        ("CartPole-v1", "did you mean pgjax train CartPole-v1?"),
        ("train Cartpole-v1", "capitals matter: use CartPole-v1"),
        ("train CartPole-v99", "other versions of it: use CartPole-v1 or CartPole-v0"),
        ("train Acrobat-v1 --vectorization async", "did you mean Acrobot-v1? If a package"),
        ("train CartPole-v1 --learning-rate 1e39", "--learning-rate must be a number from 0 to"),
        ("train CartPole-v1 --updates 9999999999", "--updates must be an integer from 1 to"),
        ("train CartPole-v1 --max-episode-steps 9999999999", "--max-episode-steps must be"),
        ("train CartPole-v1 --on-device --num-shards 99999", "--num-shards must be"),
        ("train CartPole-v1 --on-device --seeds 1000000000", "from 1 to 100000"),
        ("train CartPole-v1 --coordinator a:1 --num-processes 0 --process-id 0", "at least 1"),
        ("train json:broken:CartPole-v1", "cannot make the environment"),
        ("resume {run} --updates 0", "--updates 0: the learning rate"),
        ("evaluate {run} --episodes 9999999999", "--episodes must be an integer from 1 to"),
        ("render {run} --out video.gif --episodes 0", "--episodes must be an integer from 1 to"),
        ("render {run} --out {run}/config.json/video.gif", "cannot write the video"),
        ("plot {run} --out {run}/config.json/curve.png", "cannot write the image"),
        ("export {run} --out {run}/config.json/orbax", "Orbax cannot write"),
        ("train CartPole-v1 --run-dir " + 300 * "a", "cannot be made (File name too long)"),
        ("evaluate nowhere", "nowhere is not a run folder"),
        ("evaluate {run} --episodes 0", "--episodes"),
        ("evaluate {run} --seed -2", "--seed"),
        ("render {run} --out video.avi", ".mp4 or .gif"),
        ("plot nowhere", "nowhere is not a run folder"),
        ("plot", "name at least one run folder"),
        ("plot {run} {run}", "add --out FILE"),
        ("plot {run} {run} --out a.png", "the same seed: name one of them"),
        ("compare", "name at least one run folder"),
        ("compare {run} nowhere", "nowhere is not a run folder"),
        ("compare {run} {run}", "the same seed: name one of them"),
        ("plot {run} --smooth 0", "--smooth must be an integer of at least 1"),
        ("train CartPole-v1 --run-dir {run}", "is not empty"),
        ("train CartPole-v1 --run-dir {run}/config.json/x", "cannot be made"),
        ("render {run} --out {run}/checkpoints.gif/../..", ".mp4 or .gif"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv, words, run_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        app.main(argv.format(run=run_dir).split())
    assert stop.value.code == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("pgjax: ")
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train CartPole-v1 --seed 1.5", ["--seed", "'1.5'"]),
        ("train CartPole-v1 --estimator best", ["'best'", "reward_to_go"]),
        ("train CartPole-v1 --learning-rat 3", ["--learning-rat", "--learning-rate"]),
        ("evaluate x --episode 3", ["--episodes INT", "pgjax evaluate --help"]),
        ("train MountainCarContinuous-v0 --squash --activation gelu", ["'gelu'", "tanh"]),
        ("train", ["environment"]),
        ("", ["train", "resume"]),
    ],
)
def test_the_parser_names_arguments_that_it_cannot_read(argv, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        app.main(argv.split())
    assert stop.value.code == 2
    error = capfd.readouterr().err
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_option_suggests_only_options_of_its_command(capfd):
    with pytest.raises(SystemExit):
        app.main(["evaluate", "x", "--episode", "3"])
    assert "--episodes-per-update" not in capfd.readouterr().err  # an option of train


def help_of(capsys, *words, columns=100):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            app.main([*words, "--help"])
    assert stop.value.code == 0
    return re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out)


def test_help_names_every_argument_and_fits_the_terminal(capsys):
    general = help_of(capsys)
    assert "pgjax train ENV_ID --help: the preset of an environment" in general
    for name in app.COMMANDS:
        assert name in general
        positional = name != "gradcheck"
        for columns in (80, 120):
            text = help_of(capsys, name, columns=columns)
            assert bool(re.search(r"^ *RUN( \[RUN \.\.\.\])?  ", text, re.M)) == positional
            boxes = [line for line in text.splitlines() if line.startswith(" ")]
            assert max(map(len, boxes)) <= columns
    titles = re.findall("^ +([a-z]+) options +$", help_of(capsys, "train"), re.MULTILINE)
    assert (
        titles == "run environment network advantage optimizer epoch ppo npg device tracker".split()
    )


@pytest.mark.parametrize("rest", [["--help"], ["--updates", "3", "--help"]])
def test_help_with_an_environment_shows_its_preset(rest, capsys):
    text = help_of(capsys, "train", "CartPole-v1", *rest[:-1])
    assert re.search("^ *ENV_ID  ", text, re.MULTILINE)
    assert "the preset of reinforce for CartPole-v1" in text
    assert "Discount factor per step. (default: 0.995)" in text
    text = help_of(capsys, "train", "CartPole-v1", "--algorithm", "ppo")
    assert "the preset of ppo for CartPole-v1" in text
    assert "Discount factor per step. (default: 0.98)" in text
    assert "Taxi-v4 has no preset for it" in help_of(capsys, "train", "Taxi-v4")
    assert "(default: 0.99)" in help_of(capsys, "train")


def test_damaged_runs_are_reported(run_dir, tmp_path, capfd):
    for content in ("{", "[]", '{"env_id": "CartPole-v1", "x": 1}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(SystemExit):
            app.main(["evaluate", str(tmp_path)])
        assert len(capfd.readouterr().err.strip().splitlines()) == 1
    store.write_sealed(tmp_path / "config.json", {"env_id": "CartPole-v1", "x": 1})
    with pytest.raises(pgjax.ConfigError, match="not know: x"):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((run_dir / "config.json").read_bytes())
    with pytest.raises(pgjax.RunError, match="no intact checkpoint"):
        load(tmp_path)


def test_a_run_without_an_intact_checkpoint_says_why_in_one_line(run_dir, tmp_path, capfd):
    shutil.copytree(run_dir, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SystemExit):
        app.main(["evaluate", str(tmp_path / "run")])
    [line] = capfd.readouterr().err.strip().splitlines()
    assert "no intact checkpoint" in line
    assert ".ckpt is truncated" in line
