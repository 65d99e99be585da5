"""The pages of docs/ are complete, their links lead somewhere, and their examples keep promises."""

import html.parser
import re
import subprocess
import sys
import urllib.parse

import jax
import numpy as np
import optax
import pytest
from conftest import ROOT, assert_trees_equal, make_rollout
from documents import PAGES, blocks, cells
from test_docstrings import MODULES

import pgjax
from pgjax.gradcheck import CASES

DOCS = ROOT / "docs"
DIRECTIVE = r"^\.\. (auto\w+|py:\w+):: (pgjax[\w.]*)"
DOCUMENTED = [
    name
    for page in sorted((DOCS / "api").glob("*.md"))
    for _, name in re.findall(DIRECTIVE, page.read_text(), re.M)
]
SAME = {"pgjax.video.render": "pgjax.render"} | {
    f"pgjax.policies.{name}": f"pgjax.{name}" for name in pgjax.policies.__dict__
}


def name_of(module):
    """The name by which users reach a module."""
    names = [f"pgjax.{x}" for x in pgjax.__all__ if getattr(pgjax, x) is module]
    return names[0] if names else module.__name__


def public_names():
    """All names that users reach from `pgjax` and its public modules, these included."""
    found = {f"pgjax.{name}" for name in pgjax.__all__}
    for module in MODULES[1:]:
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            own = hasattr(module, "__all__") or getattr(value, "__module__", "") == module.__name__
            if own and not name.startswith("_"):
                found.add(f"{name_of(module)}.{name}")
    return {SAME.get(name, name) for name in found}


def test_every_public_name_is_in_the_api_reference():
    assert len(DOCUMENTED) == len(set(DOCUMENTED))
    assert public_names() - set(DOCUMENTED) == set()


def test_the_api_reference_has_only_public_names():
    assert set(DOCUMENTED) <= public_names()


def test_the_table_of_estimators_explains_each_row_of_gradcheck():
    text = (DOCS / "estimators.md").read_text()
    table = text[text.index("| in the table of `pgjax gradcheck`") :].split("\n\n")[0]
    explained = {row.split("|")[1].strip() for row in table.splitlines()[2:]}
    meanings = {case.meaning for case in CASES} | {"exact Fisher"}
    assert explained == meanings | {"gamma^t", "V"}


def test_relative_links_lead_to_files_and_headings():
    """As on a code host: links of the README and of the pages, to files and to their headings."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            target, _, heading = link.partition("#")
            if target.startswith("http"):
                continue
            path = (page.parent / target).resolve() if target else page
            assert path.is_file(), f"{page.name}: {link}"
            if heading:
                assert heading in headings(path), f"{page.name}: {link}"


def headings(path):
    """The anchors of the headings of a Markdown file."""
    found = re.findall(r"^#+ (.*)", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def own_algorithm():
    """The maker of an algorithm that docs/extending.md shows."""
    [code] = [b.code for b in blocks("python") if "reward_weighted_regression" in b.code]
    names = {}
    exec(code[: code.index("\nenv = ")], names)
    return names["reward_weighted_regression"](pgjax.SoftmaxPolicy(2), optax.adam(0.01))


def test_the_own_algorithm_of_the_docs_ignores_padding(rng):
    algorithm = own_algorithm()
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    rollout = make_rollout(rng, [5, 3])
    real = rollout.weight > 0
    other = rollout._replace(
        obs=np.where(real[..., None], rollout.obs, np.nan),
        action=np.where(real, rollout.action, 7),
        reward=np.where(real, rollout.reward, np.nan),
    )
    gradient = jax.grad(algorithm.loss, has_aux=True)
    ours, padded = (gradient(state.params, x)[0] for x in (rollout, other))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(ours))
    assert_trees_equal(ours, padded)


@pytest.mark.slow
def test_the_own_algorithm_of_the_docs_learns():
    algorithm, env = own_algorithm(), pgjax.envs.make("CartPole-v1")
    step = pgjax.training_step(algorithm, env, num_episodes=16)
    state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
    train = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s), s, None, length=100))
    _, info = train(state)
    assert info["mean_return"][:5].mean() < 40
    assert info["mean_return"][-50:].mean() > 400


@pytest.mark.slow
def test_the_quickstart_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = cells("quickstart.md")
    exec(compile(code.replace("seed=0, ", "seed=0, updates=2, "), "quickstart", "exec"), {})
    assert "update 9  return" in capsys.readouterr().out


class Page(html.parser.HTMLParser):
    """The ids and the links of a page of the site."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(tmp_path):
    pytest.importorskip("myst_nb", reason='pip install -e ".[docs]"')
    site = tmp_path / "docs" / "_build"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", str(DOCS), str(site)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 30
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if url.fragment and target in pages:
                ids = pages[target].ids
                assert urllib.parse.unquote(url.fragment) in ids, f"{path.name}: {link}"
