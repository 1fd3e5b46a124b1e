"""Builds the wheel: one package, `sat_tf`, that holds what stands beside it in the checkout.

`flags` and `export` name two folders of a checkout well, and nothing in everybody's site-packages.
Inside the wheel they are `sat_tf.flags` and `sat_tf.export`; imports of them and the commands of
docstrings are rewritten where a file is copied. pyproject.toml has all that needs no code.
"""

import pathlib
import re
import shutil

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = pathlib.Path(__file__).parent
INSIDE = ("flags", "export")
NAMED = re.compile(rf"(^\s*from|python -m) ({'|'.join(INSIDE)})(?=[ .])", re.MULTILINE)


class Build(build_py):
    """Copies the modules into the wheel, each with the names that hold there."""

    def run(self):
        """Begins anew: a module that is no more would still lie where the last wheel was made."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def build_module(self, module, module_file, package):
        """Copies a module."""
        outfile, copied = super().build_module(module, module_file, package)
        path = pathlib.Path(outfile)
        text = path.read_text(encoding="utf-8")
        path.write_text(NAMED.sub(r"\1 sat_tf.\2", text), encoding="utf-8")
        return outfile, copied


class NoEditable(editable_wheel):
    """Refuses `pip install --editable`, which would copy nothing and so rewrite nothing."""

    def run(self):
        """Says what does the same."""
        raise SystemExit(
            "sat_tf cannot be installed as editable: a checkout runs as it stands (python -m "
            "sat_tf.train in it, or its path in PYTHONPATH); pip install . copies it"
        )


def requirements(name: str) -> list[str]:
    """Reads a requirements file, and those that it names, without their comments."""
    found = []
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r ").strip())
        elif line:
            found.append(line)
    return found


NEEDED = requirements("requirements.txt")
EXTRAS = {
    name: [line for line in requirements(f"requirements-{name}.txt") if line not in NEEDED]
    for name in ("addons", "corruptions", "serving", "dev")
}
EXTRAS["gpu"] = [
    line.replace("tensorflow", "tensorflow[and-cuda]")
    for line in NEEDED
    if re.match("tensorflow[<=>]", line)
]
recipes = [f"flags.{path}" for path in find_namespace_packages("flags", include=["recipes*"])]
inside = recipes + find_packages(
    include=[pattern for name in INSIDE for pattern in (name, f"{name}.*")]
)

setup(
    packages=[*find_packages(include=["sat_tf", "sat_tf.*"]), *(f"sat_tf.{one}" for one in inside)],
    package_dir={f"sat_tf.{name}": name for name in INSIDE},
    package_data={
        "sat_tf": ["py.typed"],
        "sat_tf.zoo": ["index.json", "*/*.keras", "*/*.json", "*/*.md"],
        **{f"sat_tf.{one}": ["*.flags"] for one in recipes},
    },
    install_requires=NEEDED,
    extras_require=EXTRAS,
    cmdclass={"build_py": Build, "editable_wheel": NoEditable},
)
