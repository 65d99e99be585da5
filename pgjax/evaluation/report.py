"""Write a report of runs: one HTML file that needs no network."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pgjax.config.settings import EnvSource
from pgjax.errors import ConfigError, RunError, check_count
from pgjax.evaluation.groups import group_runs, listed_runs
from pgjax.evaluation.report_data import report_data
from pgjax.evaluation.report_videos import find_videos
from pgjax.runs import store
from pgjax.runs.folder import output_file
from pgjax.runs.run import RunLike, run_path

_MOST_BYTES = 10**6  # of a report, besides its videos and plotly


def report(
    runs: RunLike | Sequence[RunLike],
    out: Path | str | None = None,
    *,
    smooth: int = 1,
    video: bool = False,
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> Path:
    """Write a report of runs of one task: an HTML file that opens in a browser without a network.

    Use it to look through the results of an experiment, to share them, or to keep them.

    It has learning curves with bands, evaluations with intervals and the probability of improvement
    (as `plot` and `compare` compute them), the curves of all other metrics, the settings and what
    differs between the groups, a video of each group whose folder has one, the machine and the
    packages, and for each run the digest of its parameters and the command that verifies it. Runs
    without an evaluation.json have only curves. The same runs give the same bytes.

    Args:
      runs: a run, its folder, or the folder of several seeds; or a sequence of these. Runs whose
        settings differ only in the seed become one group.
      out: the .html file; by default report.html in the run folder. Several runs need it. Missing
        folders are created.
      smooth: show the mean of so many updates, each with those before it. The report says so.
      video: render an episode of each group that has no .mp4 or .gif in its folders. If that
        fails, warn, and leave the video out.
      allow_env_import, env: as for `pgjax.load`, to render.

    Returns:
      The path of the report.

    Raises:
      ConfigError: if an argument is invalid, the runs cannot be compared (see `compare`), plotly or
        jinja2 is missing, or there is too much for one report of 1 MB.
      RunError: if a run folder is damaged, or the report cannot be written. Nothing is left behind.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> pgjax.report(pgjax.train(config)).name
      'report.html'
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ConfigError('a report needs plotly and jinja2: pip install "pgjax[report]"') from None
    smooth = check_count("--smooth", smooth)
    listed = listed_runs(runs)
    if out is None and len(listed) != 1:
        raise ConfigError("a report of several runs needs a file: add --out FILE")
    out = output_file(
        run_path(listed[0]) / "report.html" if out is None else out, "a report", ".html"
    )
    groups = group_runs(listed)
    data = report_data(groups, smooth)
    videos = find_videos(groups, render_missing=video, allow_env_import=allow_env_import, env=env)
    scripts = [_script(get_plotlyjs()), _script(_template("report.js"))]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_template("report.html")).render(
        **data,
        style=_template("report.css"),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        videos=videos,
        numbers=_numbers(data),
    )
    size = len(page.encode()) - len(scripts[0].encode()) - sum(len(of["source"]) for of in videos)
    if size > _MOST_BYTES:
        raise ConfigError(
            f"the report would have {size / 1e6:.1f} MB besides videos, more than 1 MB: "
            "give it fewer runs"
        )
    _write(out, page.encode())
    return out


def _template(name: str) -> str:
    return (resources.files("pgjax.evaluation") / "templates" / name).read_text("utf-8")


def _script(text: str) -> str:
    """Return JavaScript that can stand in HTML: its strings must not end the element."""
    return re.sub("</(?=script)", r"<\\/", text.replace("\r\n", "\n"), flags=re.IGNORECASE)


def _hash(script: str) -> str:
    """The hash by which the page's security policy allows a script, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _numbers(data: dict[str, Any]) -> str:
    """Return the numbers of all charts as JSON, without texts: those in the HTML are escaped."""
    styles = [{name: of[name] for name in ("colour", "dash")} for of in data["groups"]]
    charts = [
        {
            "markers": of["markers"],
            "curves": [{name: x[name] for name in x if name != "meaning"} for x in of["curves"]],
        }
        for of in data["charts"]
    ]
    points = data["evaluation"]["points"] if data["evaluation"] else []
    return json.dumps(
        {"groups": styles, "charts": charts, "evaluation": points}, separators=(",", ":")
    )


def _write(out: Path, page: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        store.replace(out, page)
    except OSError as e:
        raise RunError(f"cannot write the report {out} ({e}): choose another --out") from None
