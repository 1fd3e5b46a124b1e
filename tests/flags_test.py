"""Every number has a range, which holds for every odd value and stands in the help."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest

from flags import numbers

ROOT = pathlib.Path(__file__).parent.parent
THEMES = {
    "train": "attack, data, method, model, run, training",
    "evaluate": "evaluate",
    "convert": "convert",
    "export": "export",
    "client": "client",
}
_FEWEST = {"train": 25, "evaluate": 8, "convert": 1, "export": 1, "client": 6}  # numbers
ODD = ["nan", "inf", "-inf", "1e400", "-1", "-0.5", "1e10", "2147483648", "-2147483649",
       "99999999999", "9" * 30, "", " ", "x", "1.5", "1/2", "None", "-", "+"]  # fmt: skip

# Programs share names of flags, so each has a process of its own, without TensorFlow.
_TRY = """
import json, sys
from absl import flags
from flags import attack, client, convert, data, evaluate, export, method, model, run, training
for theme in ({themes},):  # of one program, though all can be imported beside each other
    theme.define()
found = []
for module, members in flags.FLAGS.flags_by_module_dict().items():
    for flag in members if module.startswith("flags.") else ():
        if not isinstance(flag.default, (int, float)) and flag.parser.syntactic_help == "":
            continue
        if flag.boolean or isinstance(flag.parser, (flags.EnumParser, flags.ListParser)):
            continue
        for text in {odd!r}:
            try:
                value = flag.parser.parse(text)
            except ValueError:
                value = None
            found.append([flag.name, text, value])
        bounds = flag.parser.lower_bound, flag.parser.upper_bound
        found += [[flag.name, str(end), flag.parser.parse(str(end))] for end in bounds]
        found.append([flag.name, "bounds", bounds, flag.parser.syntactic_help])
print(json.dumps(found))
"""


@pytest.mark.parametrize("program", THEMES)
def test_a_number_outside_the_range_that_the_help_states_is_refused(program):
    code = _TRY.format(themes=THEMES[program], odd=ODD)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    bounds = {name: (low, high, words) for name, what, *rest in found if what == "bounds"
              for (low, high), words in [rest]}  # fmt: skip
    assert len(bounds) >= _FEWEST[program]
    for low, high, words in bounds.values():
        assert low is not None and high is not None and low < high < float("inf")
        stated = [float(number) for number in re.findall(r"-?\d[\d.e+]*", words)]
        assert {float(low), float(high)} <= set(stated)
    for name, text, *rest in found:
        if text != "bounds" and rest[0] is not None:
            low, high, _ = bounds[name]
            assert low <= rest[0] <= high and float(text) == rest[0], (name, text)
    ends = {(name, value) for name, _, value, *_ in found if not isinstance(value, list)}
    assert ends >= {(name, end) for name, (*both, _) in bounds.items() for end in both}
    refused = {text for name, text, *rest in found if rest[0] is None}
    assert {"nan", "inf", "-inf", "1e400", "-1", "9" * 30, "x", "1/2"} <= refused


@pytest.mark.parametrize(
    "text", ["", "5", "5,", "5,4", "0,3", "1,2,3", "a,b", "1.5,2", "-1,2", "\u0661,2"]
)
def test_a_span_of_steps_is_two_whole_numbers_in_their_order(text):
    with pytest.raises(ValueError, match="two whole numbers from 1 on"):
        numbers.SpanParser().parse(text)
    assert numbers.SpanParser().parse("10,20") == (10, 20)
    assert numbers.SpanSerializer().serialize((10, 20)) == "10,20"


# Where a name is a parameter of a call in Python that no program makes with a flag's value unseen.
_OF_PYTHON = ("attacks/", "evaluation/stream.py", "training/objectives.py")


def test_an_error_names_a_flag_as_it_is_given():
    calls = [
        node
        for path in (ROOT / "flags").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
    ]
    # One word may be any word; two that an underscore joins are the flag's name.
    names = {str(call.args[0].value) for call in calls if "_" in str(call.args[0].value)}
    bare = re.compile(rf"(?<![-\w.])({'|'.join(names)})(?![-\w.])")
    found, seen = [], 0
    for path in [*(ROOT / "sat_tf").rglob("*.py"), *(ROOT / "export").rglob("*.py")]:
        if any(f"sat_tf/{one}" in str(path) for one in _OF_PYTHON):
            continue
        for raised in ast.walk(ast.parse(path.read_text())):
            for part in ast.walk(raised) if isinstance(raised, ast.Raise) else ():
                if isinstance(part, ast.Constant) and str(part.value) not in names:
                    seen += any(f"--{name}" in str(part.value) for name in names)
                    found += [
                        (path.name, part.lineno, one) for one in bare.findall(str(part.value))
                    ]
    assert not found and len(names) > 45 and seen > 20
