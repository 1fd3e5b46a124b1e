"""BUILD is the architecture: its targets and dependencies are those of the code."""

import ast
import functools
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("sat_tf", "flags", "export", "benchmarks")
MAINS = {
    "sat_tf.__main__", "sat_tf.train", "sat_tf.evaluate", "sat_tf.activations", "sat_tf.convert",
    "export.saved_model", "benchmarks.activations", "benchmarks.evaluate", "benchmarks.study",
    "benchmarks.train_step",
}  # fmt: skip
LEAVES = ("sat_tf.attacks", "sat_tf.data", "sat_tf.schedules", "sat_tf.distribution")


@functools.cache
def modules():
    """Maps each module's dotted name to its file."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {_dotted(path): path for path in files}


def _dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(name, when_loaded=False):
    """Returns what a module imports: our modules, and the top-level names of other packages.

    `when_loaded` leaves out what its functions import when they are called.
    """
    known, found = modules(), set()
    tree = ast.parse(known[name].read_text(encoding="utf-8"))
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    ours = (found & known.keys()) - {name}
    others = {name.partition(".")[0] for name in found - ours}
    return ours, others - set(sys.stdlib_module_names) - set(PACKAGES)


def targets():
    """Reads BUILD: each module's dependencies."""
    found = {}
    for node in ast.parse((ROOT / "BUILD").read_text(encoding="utf-8")).body:
        call = node.value
        if isinstance(call, ast.Call) and call.func.id in ("py_library", "py_binary"):
            values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            name = _dotted(ROOT / values["srcs"][0])
            assert values["name"] == name.replace(".", "/")
            assert values["srcs"] == [str(modules()[name].relative_to(ROOT))]
            found[name] = {d.removeprefix(":").replace("/", ".") for d in values.get("deps", [])}
    return found


def test_build_has_one_target_a_module():
    assert set(targets()) == set(modules())


def test_dependencies_in_build_are_the_imports():
    assert targets() == {name: imports(name)[0] for name in modules()}


def test_packages_from_outside_stand_above_each_target():
    lines, listed = (ROOT / "BUILD").read_text(encoding="utf-8").splitlines(), {}
    for comment, call, name in zip(lines, lines[1:], lines[2:], strict=False):
        if call.startswith(("py_library(", "py_binary(")):
            packages = comment.partition("# pip:")[2]
            listed[ast.literal_eval(name.strip()[len("name = ") : -1])] = set(
                packages.replace(",", " ").split()
            )
    assert listed == {name.replace(".", "/"): imports(name)[1] for name in modules()}


def test_only_mains_and_flags_know_flags():
    users = {
        name for name in modules()
        if any(dep.partition(".")[0] == "flags" for dep in imports(name)[0])
    }  # fmt: skip
    assert {name for name in users if name not in MAINS and not name.startswith("flags")} == set()


def test_leaves_import_nothing_of_ours():
    for leaf in LEAVES:
        inside = {name for name in modules() if name == leaf or name.startswith(f"{leaf}.")}
        assert inside
        for name in inside:
            assert imports(name)[0] <= inside, name


def test_no_module_needs_itself_to_load():
    graph = {name: imports(name, when_loaded=True)[0] for name in modules()}
    done, visiting = set(), []

    def visit(name):
        assert name not in visiting, f"cycle: {' > '.join([*visiting, name])}"
        if name not in done:
            visiting.append(name)
            for dep in graph[name]:
                # A package that gathers its own modules is named by them for their siblings only.
                if not name.startswith(f"{dep}."):
                    visit(dep)
            visiting.pop()
            done.add(name)

    for name in graph:
        visit(name)
