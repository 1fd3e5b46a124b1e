"""The site builds strictly and without a network, and tells every public name."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in ROOT.glob("sat_tf/**/__init__.py")
    if "__all__" in path.read_text()
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring_or_is_a_constant(room):
    module = importlib.import_module(room)
    assert module.__doc__ and len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        own = (getattr(value, "__module__", None) or "").startswith("sat_tf")
        assert not own or (value.__doc__ or "").strip(), name


@pytest.mark.slow
def test_the_site_has_every_public_name_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "tour.html", "lab.html"} <= {path.name for path in pages}
    ids = set(re.findall(r'\bid="([^"]+)"', "".join(pages.values())))
    for room in ROOMS:
        for name in importlib.import_module(room).__all__:
            assert f"{room}.{name}" in ids
    loaded = (
        r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//|<link[^>]*stylesheet[^>]*href="https?:'
    )
    assert not {path for path, text in pages.items() if re.search(loaded, text)}
