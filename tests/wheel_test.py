"""What pip installs: one package that imports, finds and says everything as the checkout does."""

import ast
import configparser
import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import sat_tf
from sat_tf import quiet, zoo

ROOT = pathlib.Path(__file__).parent.parent
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
_CALL = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
)


def build(checkout, order, folder):
    """Asks the builder that pip asks, in the checkout, for what `folder` then holds."""
    return subprocess.run(
        [sys.executable, "-c", _CALL, order, str(folder)],
        cwd=checkout,
        capture_output=True,
        text=True,
    )


def copied(folder):
    """Copies what a wheel is made of, so that nothing is built among the project's own files."""
    for name in ("sat_tf", "flags", "export"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*(ROOT / name for name in FILES), *ROOT.glob("requirements*.txt")]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("checkout"))
    stale = folder / "build" / "lib" / "sat_tf" / "no_more.py"  # of a wheel before
    stale.parent.mkdir(parents=True)
    stale.touch()
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done = build(checkout, "build_wheel", folder)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def read(wheel):
    """The files of a wheel as texts, from which the bytes of a network come back too."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode("latin1") for name in archive.namelist()}


@pytest.fixture(scope="module")
def contents(wheel):
    return read(wheel)


@pytest.fixture(scope="module")
def metadata(contents):
    return email.message_from_string(contents[f"sat_tf-{sat_tf.__version__}.dist-info/METADATA"])


def source_of(name):
    """The file of the checkout that a file of the wheel was."""
    beside = name.removeprefix("sat_tf/")
    return beside if beside.startswith(("flags/", "export/")) else name


def test_the_wheel_is_one_package_with_every_module_and_recipe_of_the_checkout(checkout, contents):
    inside = {name for name in contents if not name.startswith("sat_tf-")}
    assert {name.split("/")[0] for name in inside} == {"sat_tf"}
    sources = {
        str(path.relative_to(checkout))
        for name in ("sat_tf", "flags", "export")
        for path in (checkout / name).rglob("*")
        if path.is_file()
    }
    assert sorted(map(source_of, inside)) == sorted(sources)
    assert {"sat_tf/py.typed", "sat_tf/flags/recipes/cifar10/relu.flags"} <= inside
    networks = [name for name in inside if name.endswith(".keras")]
    assert len(networks) == len(zoo.names()) > 0
    for name in networks:
        assert contents[name].encode("latin1") == (ROOT / name).read_bytes()


def imports(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module


def test_nothing_in_the_wheel_needs_what_stands_beside_the_package_in_a_checkout(contents):
    modules = {name: text for name, text in contents.items() if name.endswith(".py")}
    known = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in modules
    }
    for name, text in modules.items():
        found = set(imports(text))
        assert not {one.split(".")[0] for one in found} & {"flags", "export", "benchmarks"}, name
        assert {one for one in found if one.split(".")[0] == "sat_tf"} <= known, name
        assert not re.search(r"python -m (flags|export)\b", text), name
        # Nothing but these names was changed.
        before = (ROOT / source_of(name)).read_text("latin1")
        there = [re.sub(r"sat_tf\.(flags|export)\b", r"\1", one) for one in (text, before)]
        assert there[0] == there[1], name


def normal(requirement):
    """A requirement as (name, extras and all, its bounds, its marker)."""
    name, bounds, marker = re.fullmatch(
        r"([\w.\[\]-]+)\s*([^;]*?)\s*(?:;\s*(.*))?", requirement.strip()
    ).groups()
    return name, frozenset(bounds.split(",")), marker


def required(name):
    lines = (ROOT / name).read_text().splitlines()
    return {normal(line.partition("#")[0]) for line in lines if line[0] not in "#-"}


def test_version_and_requirements_stand_once(metadata):
    assert metadata["Version"] == sat_tf.__version__
    assert f"\nversion: {sat_tf.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    needed = required("requirements.txt")
    found = {normal(line) for line in metadata.get_all("Requires-Dist")}
    by_extra = {name: set() for name in metadata.get_all("Provides-Extra")}
    for name, bounds, marker in found:
        if extra := re.fullmatch('(?:(.*) and )?extra == "(.*)"', marker or ""):
            by_extra[extra[2]].add((name, bounds, extra[1]))
    assert found - needed == {one for one in found if "extra ==" in (one[2] or "")} != found
    (bounds,) = [bounds for name, bounds, _ in needed if name == "tensorflow"]
    extras = ("addons", "corruptions", "dev", "serving")
    own = {name: required(f"requirements-{name}.txt") for name in extras}
    own["dev"] |= own["serving"]  # which that file names
    own = {name: lines - needed for name, lines in own.items()}
    assert by_extra == own | {"gpu": {("tensorflow[and-cuda]", bounds, None)}}
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == "<3.14,>=3.10"


def test_every_command_is_a_function_of_the_wheel_and_known_to_the_start(contents):
    said = configparser.ConfigParser()
    said.read_string(contents[f"sat_tf-{sat_tf.__version__}.dist-info/entry_points.txt"])
    commands = said["console_scripts"]
    assert {name: where.partition(":")[0] for name, where in commands.items()} == quiet.COMMANDS
    for where in commands.values():
        module, _, function = where.partition(":")
        tree = ast.parse(contents[f"{module.replace('.', '/')}.py"])
        assert function in {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


def test_the_list_of_programs_is_that_of_what_is_installed(wheel, contents, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sat_tf"], cwd=tmp_path, text=True,
        env=os.environ | {"PYTHONPATH": "site"}, capture_output=True, timeout=100,
    )  # fmt: skip
    lines = done.stdout.partition("\n\n")[0].splitlines()
    assert done.returncode == 0 and "tensorflow" not in done.stderr
    assert {line.split()[0] for line in lines} - {"python"} == set(quiet.COMMANDS)
    for line in lines:
        if line.startswith("python -m "):
            path = line.split()[2].replace(".", "/")
            assert {f"{path}.py", f"{path}/__main__.py"} & contents.keys(), line
    assert "where to begin: sat-train" in done.stdout


def test_a_wheel_of_the_source_archive_is_the_same(checkout, contents, tmp_path):
    assert build(checkout, "build_sdist", tmp_path).returncode == 0
    (archive,) = tmp_path.iterdir()
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    done = build(source, "build_wheel", tmp_path)
    assert done.returncode == 0, done.stderr
    assert read(next(tmp_path.glob("*.whl"))) == contents


def test_an_editable_installation_is_refused_with_what_does_the_same(checkout, tmp_path):
    done = build(checkout, "build_editable", tmp_path)
    assert done.returncode != 0 and not list(tmp_path.iterdir())
    assert "a checkout runs as it stands" in done.stderr.splitlines()[-1]
