"""What BUILD loads, without a network: Bazel's own rules, and packages that pip has installed."""

def _pip_impl(repository):
    python = repository.os.environ.get("PYTHON") or str(repository.which("python3"))
    tried = repository.execute([python, "-c", _INSTALLED])
    if tried.return_code or not python.startswith("/"):
        fail(_NO_PYTHON % (python, tried.stderr.strip().rpartition("\n")[2]))

    words = repository.read(Label("//:BUILD")).split("\"@pip//")[1:]
    for package in {word.partition("\"")[0]: None for word in words}:
        repository.file(package + "/BUILD", _PACKAGE % package)
    repository.file("BUILD", _PYTHON % python)

_NO_PYTHON = """PYTHON, or without it the first python3 of PATH, is %s: %s
It must be an absolute path of a Python with the packages of requirements-dev.txt; for example
PYTHON="$PWD/.venv/bin/python" bazel test //..."""

_INSTALLED = "from importlib import metadata; metadata.version('tensorflow')"

_PACKAGE = """# Empty: the Python that runs the target has it installed.
py_library(name = "%s", visibility = ["//visibility:public"])
"""

_PYTHON = """load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

py_runtime(name = "python", interpreter_path = "%s", python_version = "PY3")

py_runtime_pair(name = "pair", py3_runtime = ":python")

toolchain(
    name = "toolchain",
    toolchain = ":pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

_pip = repository_rule(
    implementation = _pip_impl,
    environ = ["PATH", "PYTHON"],
    doc = "A target without files for each package that BUILD names, and the Python that has them.",
)

def _files_impl(repository):
    for path, text in repository.attr.files.items():
        repository.file(path, text)

_files = repository_rule(
    implementation = _files_impl,
    attrs = {"files": attr.string_dict(mandatory = True, doc = "The text of each file.")},
    doc = "A repository of the files given.",
)

def _native(name, folder, rules):
    text = "".join(["%s = native.%s\n" % (rule, rule) for rule in rules])
    _files(name = name, files = {folder + "/BUILD": "", folder + "/defs.bzl": text})

# What Bazel's own packages load, in whose place Bazel 4 would fetch the same rules.
_CC = ["cc_binary", "cc_import", "cc_library", "cc_test", "cc_toolchain", "cc_toolchain_suite"]
_JAVA = ["java_binary", "java_import", "java_library", "java_runtime", "java_toolchain"]

_COVERAGE = """package(default_visibility = ["//visibility:public"])

filegroup(name = "coverage_report_generator")

filegroup(name = "lcov_merger")
"""

def offline():
    """Defines each repository that BUILD, and Bazel for its own purposes, asks for."""
    _native("rules_python", "python", ["py_binary", "py_library", "py_test"])
    _native("rules_cc", "cc", _CC)
    _native("rules_java", "java", _JAVA)
    _files(name = "remote_coverage_tools", files = {"BUILD": _COVERAGE})
    _pip(name = "pip")
    native.register_toolchains("@pip//:toolchain")
