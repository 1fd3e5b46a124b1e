"""BUILD is the architecture: its targets are the rooms, their dependencies those of the code."""

import ast
import functools
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("sat_tf", "flags", "export", "benchmarks", "tests")
# What a package is called where pip installs it, if that is not what Python imports.
DISTRIBUTIONS = {"PIL": "pillow", "absl": "absl_py", "art": "adversarial_robustness_toolbox",
                 "google": "protobuf", "grpc": "grpcio", "sklearn": "scikit_learn",
                 "tensorflow_serving": "tensorflow_serving_api", "yaml": "pyyaml"}  # fmt: skip
LEAVES = ("activations", "attacks", "data", "specs")


@functools.cache
def targets():
    """Reads BUILD: {name: (kind, files, dependencies, what else it says)}."""
    found = {}  # BUILD's language is a part of Python

    def kind(rule):
        def target(name, srcs, deps=(), **more):
            assert name not in found, f"{name} stands twice in BUILD"
            assert len(deps) == len(set(deps)), f"{name} names a dependency twice"
            found[name] = rule, tuple(srcs), frozenset(deps), more

        return target

    def glob(patterns, exclude=(), allow_empty=False):
        files = {path for pattern in patterns for path in ROOT.glob(pattern)}
        left = {path for pattern in exclude for path in ROOT.glob(pattern)}
        return sorted(str(path.relative_to(ROOT)) for path in files - left)

    rules = ("py_library", "py_binary", "py_test")
    words = {rule: kind(rule) for rule in rules} | {"glob": glob, "filegroup": lambda **_: None}
    text = (ROOT / "BUILD").read_text(encoding="utf-8")
    exec(text, words | {name: lambda *_, **__: None for name in ("load", "package")})
    return found


@functools.cache
def modules():
    """Maps each module's dotted name to its file."""
    return {
        _dotted(path.relative_to(ROOT)): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


def _dotted(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def syntax(name):
    """Returns a module's imports when it is loaded, those at any time, and its constants.

    A file is parsed and walked once for all tests, and its tree is not kept.
    """
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    nodes, kinds = list(ast.walk(tree)), (ast.Import, ast.ImportFrom)
    return (
        [node for node in tree.body if isinstance(node, kinds)],
        [node for node in nodes if isinstance(node, kinds)],
        {node.value for node in nodes if isinstance(node, ast.Constant)},
    )


@functools.cache
def imports(name, when_loaded=False):
    """Returns what a module imports: our modules, and the top-level names of other packages.

    `when_loaded` leaves out what its functions import when they are called.
    """
    known, found = modules(), set()
    loaded, ever, _ = syntax(name)
    for node in loaded if when_loaded else ever:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    ours = (found & known.keys()) - {name}
    others = {name.partition(".")[0] for name in found - ours}
    return ours, others - set(sys.stdlib_module_names) - set(PACKAGES)


@functools.cache
def rooms():
    """Maps each module to its target, the one that is no test where there are several."""
    by_file = {}
    for name, (kind, files, *_) in targets().items():
        for file in files if kind != "py_test" else files[:1]:  # the second is the main of all
            assert file not in by_file, f"{file} is in {by_file[file]} and in {name}"
            by_file[file] = name
    return {name: by_file.get(str(path.relative_to(ROOT))) for name, path in modules().items()}


def needed(target):
    """Returns the dependencies that the imports of a target's files ask for."""
    ours, others = set(), set()
    for name in _with_other_tests(target):
        inside, outside = imports(name)
        ours |= {rooms()[name] for name in inside if not _is_test(name)} - {target}
        others |= {f"@pip//{DISTRIBUTIONS.get(name, name)}" for name in outside}
    return {f":{name}" for name in ours} | others


def _is_test(name):
    return name.startswith("tests.") and name.endswith("_test")


def _with_other_tests(target):
    """Returns the modules of a target, and the files of tests that its tests import."""
    found = {_dotted(pathlib.PurePath(file)) for file in targets()[target][1]}
    while more := set(filter(_is_test, set().union(*(imports(one)[0] for one in found)))) - found:
        found |= more
    return found


def test_every_module_is_in_one_target():
    assert {name for name, target in rooms().items() if target is None} == set()
    assert len((ROOT / "BUILD").read_text(encoding="utf-8").splitlines()) <= 300


def test_dependencies_in_build_are_the_imports():
    listed, found, packages = {}, {}, set()
    for name, (kind, _, deps, _) in targets().items():
        need = needed(name)
        if kind == "py_test":  # those of a room's tests are one list, the packages of all another
            packages |= _outside(need)
            name, need = deps, need - _outside(need) | _outside(deps)
        listed[name] = set(deps)
        found[name] = found.get(name, set()) | need
    assert listed == found
    assert packages == _outside(targets()["architecture_test"][2])


def _outside(deps):
    return {one for one in deps if one.startswith("@")}


def test_a_version_of_every_package_is_locked_for_bazel():
    text = (ROOT / "tools" / "bazel" / "requirements_lock.txt").read_text(encoding="utf-8")
    locked = {re.split(r"[\[=]", line)[0].replace("-", "_") for line in text.splitlines()}
    named = set().union(*(_outside(deps) for _, _, deps, _ in targets().values()))
    assert named <= {f"@pip//{name}" for name in locked}  # docs/bazel.md says how it is made anew


def test_programs_are_what_has_a_main():
    programs = {
        str(path.relative_to(ROOT)) for name, path in modules().items()
        if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
        and not name.startswith("tests")
    }  # fmt: skip
    binaries = [target for target in targets().values() if target[0] == "py_binary"]
    assert {target[3].get("main", target[1][0]) for target in binaries} == programs


@functools.cache
def _programs():
    """Maps the name after `python -m` to the target of each program."""
    binaries = {name for name, target in targets().items() if target[0] == "py_binary"}
    return {
        name.removesuffix(".__main__"): room for name, room in rooms().items() if room in binaries
    }


@functools.cache
def _with_what_it_needs(name):
    _, _, deps, more = targets()[name]
    ours = (one[1:] for one in {*deps, *more.get("data", ())} if one.startswith(":"))
    return {name}.union(*map(_with_what_it_needs, ours))


def test_what_a_test_starts_by_name_is_among_what_it_needs():
    for name, (kind, files, *_) in targets().items():
        if kind == "py_test":
            *_, words = syntax(_dotted(pathlib.PurePath(files[0])))
            started = {_programs()[word] for word in words & _programs().keys() if "." in word}
            assert started <= _with_what_it_needs(name), name


def test_a_file_of_tests_that_another_imports_is_read_by_it():
    for name, (kind, files, _, more) in targets().items():
        if kind == "py_test":
            asked = {str(modules()[one].relative_to(ROOT)) for one in _with_other_tests(name)}
            assert asked <= {*files, *more["data"]}, name


def test_no_program_is_named_like_a_folder():
    # Bazel lays a program beside the folders it needs; it would stand in the place of one.
    assert not set(_programs().values()) & {path.name for path in ROOT.iterdir() if path.is_dir()}


def test_only_programs_and_flags_know_flags():
    users = {name for name, target in targets().items() if ":flags" in target[2]}
    assert {name for name in users if targets()[name][0] == "py_library"} == set()


def test_flags_and_export_are_imported_as_setup_py_rewrites_them_for_the_wheel():
    for name in modules():
        for node in syntax(name)[1]:
            named = node.names if isinstance(node, ast.Import) else ()
            folders = {alias.name.partition(".")[0] for alias in named} & {"flags", "export"}
            assert name.startswith("tests.") or not folders, (
                f"{name}: write `from {folders} import`"
            )


def test_leaves_import_nothing_of_ours_but_the_grammar_of_specs():
    for leaf in LEAVES:
        ours = {one for one in targets()[leaf][2] if one.startswith(":")}
        assert ours <= {":sat_tf", ":specs"}, leaf  # sat_tf starts TensorFlow and nothing else


def _visit(graph, name, done, visiting):
    assert name not in visiting, f"circle: {' > '.join([*visiting, name])}"
    if name not in done:
        for other in graph[name]:
            _visit(graph, other, done, [*visiting, name])
        done.add(name)


def test_no_target_needs_itself():
    graph = {
        name: [one[1:] for one in target[2] if one.startswith(":")]
        for name, target in targets().items()
    }
    done = set()
    for name in graph:
        _visit(graph, name, done, [])


def test_no_module_needs_itself_to_load():
    # A package that gathers its own modules is named by them for their siblings only.
    graph = {
        name: [one for one in imports(name, when_loaded=True)[0] if not name.startswith(f"{one}.")]
        for name in modules()
    }
    done = set()
    for name in graph:
        _visit(graph, name, done, [])
