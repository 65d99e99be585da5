import base64
import hashlib
import json
import re
import shlex
import sys

import numpy as np
import pytest
from fake_runs import fake_run, fake_seeds
from html_page import Page
from plotly.offline import get_plotlyjs

import pgjax
from pgjax.cli import app
from pgjax.evaluation import report as report_module
from pgjax.evaluation import report_videos
from pgjax.evaluation.statistics import interquartile_mean
from pgjax.runs import store

ROWS = [(10, 1.0), (30, 2.0)]
HIGH, LOW = [3.0, 8.0, 9.0, 7.0, 5.0], [1.0, 4.0, 5.0, 2.0, 6.0]
HOSTILE = (
    "<script>alert('1')</script><img src=x onerror=\"alert(2)\">&amp;{{ 7 * 7 }}%{y}" + "x" * 10_000
)


def numbers(page):
    """The numbers of the charts."""
    return json.loads(page.scripts[0])


def following(texts, text, count):
    """The texts that follow one."""
    return texts[texts.index(text) + 1 :][:count]


def two_groups(path):
    """Groups of five seeds, the first with higher returns."""
    metrics = {"grad_norm": 0.5, "update": 1, "note": "text", "huge": float("inf")}
    manifest = {"params_sha256": "ab" * 32, "updates": 2, "machine": {"jax version": "0.10"}}
    manifest |= {"git_commit": "c0ffee", "git_dirty": True, "environment": {"module": None}}
    rows = [[(10, x), (30, 2 * x)] for x in HIGH]
    high = fake_seeds(
        path / "high", rows, HIGH, learning_rate=0.5, manifest=manifest, metrics=metrics
    )
    manifest["machine"] = {"jax version": "0.11"}
    low = fake_seeds(path / "low", [ROWS] * 5, LOW, manifest=manifest)
    return high, low


def test_a_report_has_what_two_groups_reach_and_what_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = pgjax.report(two_groups(tmp_path), tmp_path / "new" / "report.html")
    page = Page(out)
    assert out == tmp_path / "new" / "report.html"
    assert (
        "A report of 10 runs in 2 groups; the runs of a group differ only in the seed."
        in page.texts
    )
    low, high = (f"{interquartile_mean(HIGH)[name]:.3f}" for name in ("low", "high"))
    # The middle three of the first group are 5, 7 and 8.
    cells = following(page.texts, "P(1 > this)", 7)
    assert cells == ["1", "learning_rate 0.5", "5", "6.667", f"{low} to {high}", "30", "1.0 s"]
    # Of 25 pairs the first group wins 2, 5, 5, 5 and 3 (with a tie of 5 and 5, which counts half).
    row = following(page.texts, "1.0 s", 7)
    assert row[:4] == ["2", "learning_rate 0.02", "5", "3.667"]
    assert f"{(2 + 5 + 5 + 5 + 3.5) / 25:.2f} (" in " ".join(page.texts)
    # Settings: the first group's differs from the preset, which is the second group's.
    assert following(page.texts, "What differs between the groups:", 6) == [
        *("setting", "1", "2", "learning_rate", "0.5", "0.02"),
    ]
    settings = page.texts[page.texts.index("All settings") :]
    assert following(settings, "learning_rate", 2) == ["0.5 | 0.02", "0.02"]
    assert following(settings, "algorithm", 2) == ['"reinforce"', "updates"]  # no preset
    assert "seed" not in settings
    # Runs, their digests and commands; and machines that differ.
    assert page.texts.count("ab" * 32) == 10
    assert "pgjax verify high/seed-4" in page.texts
    assert following(page.texts, "Machine", 4) == [
        *("jax version", "0.10 (5 runs), 0.11 (5 runs)"),
        *("pgjax's git commit", "c0ffee, with changes"),
    ]


def test_curves_are_those_of_the_logs(tmp_path):
    page = Page(pgjax.report(two_groups(tmp_path), tmp_path / "report.html"))
    found = numbers(page)
    returns, grad_norm = found["charts"]
    first, second = returns["curves"]
    assert (first["x"], first["mean"]) == ([10, 30], [6.6667, 13.333])
    expected = np.array([interquartile_mean(HIGH)[name] for name in ("low", "high")])
    np.testing.assert_allclose([first["low"][0], first["high"][0]], expected, atol=0.5)
    assert second == {"group": 1, "x": [10, 30], "mean": [1.0, 2.0]}
    # A metric of one group only; text and counters have no chart.
    assert grad_norm["curves"] == [{"group": 0, "x": [10, 30], "mean": [0.5, 0.5]}]
    assert page.texts.count("grad_norm") == 1
    assert not {"note", "huge"} & set(page.texts)
    points = found["evaluation"]
    assert [of["seeds"] for of in points] == [HIGH, LOW]
    assert points[1]["mean"] == pytest.approx(11 / 3)
    assert [of["colour"] for of in found["groups"]] == ["#0072B2", "#D55E00"]


def test_a_run_alone_has_the_range_of_its_episodes(tmp_path):
    run = fake_run(tmp_path / "run", ROWS, 4.0, metrics={"min_return": 0.0, "max_return": 3.0})
    rows = [
        {"update": n, "total_env_steps": 10 * n, "mean": 2.0 * n, "episodes": 5} for n in (1, 3)
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(pgjax.report(run))
    returns, evaluations = numbers(page)["charts"]
    assert returns["curves"] == [
        {"group": 0, "x": [10, 30], "mean": [1.0, 2.0], "low": [0.0] * 2, "high": [3.0] * 2}
    ]
    assert evaluations == {
        "markers": True,
        "curves": [{"group": 0, "x": [10, 30], "mean": [2.0, 6.0]}],
    }
    assert "seed 0, from the worst to the best episode" in page.texts
    assert "A report of 1 run." in page.texts
    assert "What differs between the groups:" not in page.texts
    smooth = Page(pgjax.report(str(run), smooth=2))
    assert numbers(smooth)["charts"][0]["curves"][0]["mean"] == [1.0, 1.5]
    assert "Mean return of an update, moving average over 2 updates" in smooth.texts


def test_what_users_wrote_is_shown_as_text(tmp_path):
    plain, name = fake_run(tmp_path / "plain", ROWS, 1.0, seed=1), "<b onclick='x'>\"&amp;"
    settings = {"env_id": "CartPole-v1", "env_kwargs": {HOSTILE: HOSTILE}}
    manifest = {
        "machine": {HOSTILE: HOSTILE},
        "packages": {HOSTILE: HOSTILE},
        "params_sha256": HOSTILE,
        "not_bit_exact_because": HOSTILE,
    }
    run = fake_run(
        tmp_path / name, ROWS, 1.0, manifest=manifest, metrics={HOSTILE: 1.0}, **settings
    )
    for listed in (run, [run, plain], [plain, run]):
        page = Page(pgjax.report(listed, tmp_path / "report.html"))
        tags = [tag for tag, _ in page.elements]
        assert (tags.count("script"), tags.count("img"), tags.count("b")) == (
            3,
            0,
            3 * len(page.find("label")),
        )
        assert not any(key.startswith("on") for _, attrs in page.elements for key in attrs)
        shown = "".join(page.texts)
        # Names and values of machine and packages; the metric, the digest and the reason.
        assert shown.count(HOSTILE) == 2 * 2 + 3
        assert f"{{{json.dumps(HOSTILE)}: {json.dumps(HOSTILE)}}}" in shown  # a setting
        assert (name if listed is run else shlex.quote(str(run))) in shown
        assert "49" not in shown
        assert "x" * 20 not in page.scripts[0] + page.scripts[2] + page.styles[0]


def test_hostile_environments_and_reasons_are_text_too(tmp_path):
    rows = [[(10, 1.0)]] * 2
    runs = fake_seeds(tmp_path / "runs", rows, env_id="<i>x</i>-v0", diverged="</style><i>")
    page = Page(pgjax.report(runs))
    assert not page.find("i")
    assert "<i>x</i>-v0" in page.texts
    assert "diverged: </style><i>" in page.texts
    assert "no curve (2 seeds diverged, not shown)" in page.texts
    assert numbers(page)["charts"] == [{"markers": False, "curves": []}]


def test_a_page_asks_no_network_and_runs_its_own_scripts_only(tmp_path):
    page = Page(pgjax.report(two_groups(tmp_path), tmp_path / "report.html"))
    for tag, attrs in page.elements:
        assert tag not in ("iframe", "object", "embed", "form", "a", "base")
        links = [attrs.get(name) for name in ("src", "href", "srcset", "action", "poster", "data")]
        assert all(link is None or link.startswith("data:") for link in links)
    own = page.source.replace(page.scripts[1], "")
    assert not re.search(r"https?:|//cdn|url\(|@import", own)
    [policy] = [of["content"] for of in page.find("meta") if "http-equiv" in of]
    digests = (hashlib.sha256(text.encode()).digest() for text in page.scripts[1:])
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    assert policy.startswith(f"default-src 'none'; script-src {hashes}; style-src")
    assert page.scripts[1] == get_plotlyjs()


def test_a_report_is_small_and_the_same_each_time(tmp_path, monkeypatch):
    metrics = {f"metric_{i}": 0.123456789 for i in range(20)}
    rows = [(i, i / 7) for i in range(1, 601)]
    rates = [0.01 * i for i in range(1, 13)]
    runs = [fake_run(tmp_path / f"{x}", rows, 1.0, metrics=metrics, learning_rate=x) for x in rates]
    path = pgjax.report(runs, tmp_path / "report.html")
    before = path.read_bytes()
    assert len(before) - len(get_plotlyjs().encode()) < 10**6
    assert pgjax.report(runs, path).read_bytes() == before
    monkeypatch.setattr(report_module, "_MOST_BYTES", 10**5)
    with pytest.raises(pgjax.ConfigError, match="more than 1 MB: give it fewer runs"):
        pgjax.report(runs, path)
    assert path.read_bytes() == before


def test_runs_without_an_evaluation_have_curves_and_the_command_that_evaluates(tmp_path):
    seeds = fake_seeds(tmp_path / "see ds", [ROWS] * 2, [1.0, None], updates=7)
    one = fake_run(tmp_path / "one", ROWS, 4.0)
    command = f"pgjax evaluate '{seeds}' --save"
    page = Page(pgjax.report([seeds], tmp_path / "report.html"))
    assert following(page.texts, "Evaluation", 2) == [
        "The runs have no evaluation. These commands evaluate them:",
        command,
    ]
    page = Page(pgjax.report([seeds, one], tmp_path / "report.html"))
    assert command in page.texts
    [points] = numbers(page)["evaluation"]
    assert (points["group"], points["seeds"], points["mean"]) == (1, [4.0], 4.0)
    assert len(numbers(page)["charts"][0]["curves"]) == 2
    three = fake_run(tmp_path / "three", ROWS, 5.0, updates=3)
    page = Page(pgjax.report([seeds, one, three], tmp_path / "report.html"))
    assert following(page.texts, "P(2 > this)", 1) == ["2"]
    assert "a seed of row 2 has a higher return" in " ".join(page.texts)


def test_a_video_in_a_folder_is_embedded(tmp_path, monkeypatch):
    seeds = fake_seeds(tmp_path / "seeds", [ROWS] * 2)
    other = fake_run(tmp_path / "other", ROWS, updates=7)
    (seeds / "seed-1" / "a.gif").write_bytes(b"GIF of a seed")
    (other / "a.gif").write_bytes(b"GIF")
    (other / "video.mp4").write_bytes(b"MP4")
    page = Page(pgjax.report([seeds, other], tmp_path / "report.html"))
    [image], [video] = page.find("img"), page.find("video")
    assert image["src"] == "data:image/gif;base64," + base64.b64encode(b"GIF of a seed").decode()
    assert video["src"] == "data:video/mp4;base64," + base64.b64encode(b"MP4").decode()
    monkeypatch.setattr(report_videos, "_MOST_BYTES", 3)
    with pytest.warns(pgjax.RunWarning, match="no video of group 1: a.gif has 0.0 MB"):
        page = Page(pgjax.report([seeds, other], tmp_path / "report.html"))
    assert (len(page.find("img")), len(page.find("video"))) == (0, 1)
    (other / "video.mp4").unlink()
    (seeds / "seed-1" / "a.gif").unlink()
    (other / "video.mp4").symlink_to(other / "a.gif")
    with pytest.warns(pgjax.RunWarning, match="no video of group 2: .* cannot be read"):
        page = Page(pgjax.report([seeds, other], tmp_path / "report.html"))
    assert not page.find("video")


def test_a_video_is_rendered_on_request_or_left_out_with_a_warning(run_dir, tmp_path):
    before = sorted(path.name for path in run_dir.iterdir())
    page = Page(pgjax.report(run_dir, tmp_path / "report.html", video=True))
    [video] = page.find("video")
    assert base64.b64decode(video["src"].partition(",")[2])[4:8] == b"ftyp"
    assert sorted(path.name for path in run_dir.iterdir()) == before
    fake = fake_run(tmp_path / "fake", ROWS)
    with pytest.warns(pgjax.RunWarning, match="the report has no video of group 1"):
        page = Page(pgjax.report(fake, video=True))
    assert not page.find("video")


def refused(capsys, *words):
    """The line that the command prints; it exits with code 2."""
    with pytest.raises(SystemExit) as exit_code:
        app.main(["report", *map(str, words)])
    assert exit_code.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    one = fake_run(tmp_path / "one", ROWS, 4.0)
    other = fake_run(tmp_path / "other", ROWS, 4.0, env_id="Pendulum-v1")
    out, folder = tmp_path / "out" / "report.html", tmp_path / "folder.html"
    folder.mkdir()
    assert "different tasks" in refused(capsys, one, other, "--out", out)
    assert "same settings and the same seed" in refused(capsys, one, one, "--out", out)
    assert "add --out FILE" in refused(capsys, one, other)
    assert "must end in .html" in refused(capsys, one, "--out", one / "config.json")
    assert "is a folder" in refused(capsys, one, "--out", folder)
    assert "cannot write the report" in refused(
        capsys, one, "--out", one / "config.json" / "a.html"
    )
    assert "is not a run folder" in refused(capsys, tmp_path, "--out", out)
    assert "--smooth must be an integer" in refused(capsys, one, "--out", out, "--smooth", "0")
    for name, text in (
        ("evaluation.json", "{"),
        ("timings.jsonl", "[]"),
        ("metrics.jsonl", '{"total_env_steps": 1, "mean_return": [1]}'),
        ("manifest.json", "{}"),
        ("config.json", "{}"),
    ):
        (one / name).write_text(text)
        assert str(one) in refused(capsys, one, "--out", out)
    (other / "manifest.json").unlink()
    assert "leave this run out" in refused(capsys, other, "--out", out)
    store.write_sealed(other / "manifest.json", {"machine": [1]})
    assert "is not a manifest" in refused(capsys, other, "--out", out)
    assert not out.parent.exists()
    assert sorted(path.name for path in one.iterdir()) == sorted(
        "config.json evaluation.json manifest.json metrics.jsonl timings.jsonl".split()
    )


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    run = fake_run(tmp_path / "run", ROWS)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(pgjax.ConfigError, match=r'pip install "pgjax\[report\]"'):
        pgjax.report(run)


def test_the_command_prints_the_path(tmp_path, capsys):
    run = fake_run(tmp_path / "run", ROWS, 4.0)
    app.main(["report", str(run)])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
