"""The notebook in examples/ runs in Jupyter, and shows progress, a curve and an episode."""

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The code cells of the notebook after it has been run, with a tiny budget."""
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    for cell in notebook.cells:
        tiny = "seed=0, updates=2, episodes_per_update=2, eval_episodes=2"
        cell.source = cell.source.replace("seed=0", tiny)
    folder = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """All that a cell shows, as text."""
    return "\n".join(str(output.get("data", output.get("text"))) for output in cell.outputs)


def test_a_student_sees_an_agent_after_five_lines(cells):
    first = cells[0]
    assert len([line for line in first.source.splitlines() if line]) <= 5  # the sixth installs
    assert "application/vnd.jupyter.widget-view+json" in shown(first)  # the progress bar
    assert "over 2 episodes" in shown(first)
    assert "video/mp4" in shown(first)
    assert "base64" in shown(first)


def test_a_run_shows_its_curve_and_its_evaluation(cells):
    assert "data:image/png;base64" in shown(cells[1])
    assert "mean length" in shown(cells[1])


def test_nothing_is_an_error_or_a_warning(cells):
    for cell in cells:
        assert all(output.output_type != "error" for output in cell.outputs)
        # Other packages may log there, such as matplotlib about its fonts.
        errors = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
        assert "Warning" not in errors
        assert "pgjax" not in errors
    assert "Metrics of 2 updates" in shown(cells[2])
    assert "the pole stood for" in shown(cells[3])
