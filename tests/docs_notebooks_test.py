"""The notebooks run, with not a word on stderr, and what is kept of them is whole and small."""

import json
import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
NOTEBOOKS = pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda p: p.stem)


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell):
    """What a cell gave: its streams, its pictures."""
    return {(one["output_type"], one.get("name")) for one in cell["outputs"]}


@NOTEBOOKS
def test_what_is_kept_is_one_run_from_the_top_and_small(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    cells = code(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert set().union(*map(kinds, cells)) == {("stream", "stdout"), ("display_data", None)}
    assert len(text) < 200_000
    assert not re.search(r"[\"' ](/[a-z]+){2,}/", text)  # no path of the machine that ran it
    assert all(len(cell["source"]) <= 40 for cell in notebook["cells"])  # lines


@pytest.mark.slow
@NOTEBOOKS
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient, nbformat = map(pytest.importorskip, ("nbclient", "nbformat"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    notebook = nbformat.read(path, 4)
    before = [kinds(cell) for cell in code(notebook)]
    where = {"metadata": {"path": str(DOCS)}}
    nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources=where
    ).execute()
    # Warnings are errors: they would be on stderr.
    assert [kinds(cell) for cell in code(notebook)] == before
