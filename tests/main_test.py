"""What is wrong with the command line is said in one line; help is no error."""

import pathlib
import subprocess
import sys

import pytest
from absl import flags

from sat_tf import main

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def parse(monkeypatch, capsys):
    """Parses arguments against four flags; returns the status and stderr."""
    values = flags.FlagValues()
    flags.DEFINE_float("learning_rate", 0.1, "", flag_values=values)
    flags.DEFINE_float("epsilon", 8.0, "", flag_values=values)
    flags.DEFINE_integer("attack_steps", 1, "", flag_values=values)
    flags.DEFINE_integer("test_steps", 1, "", flag_values=values)
    monkeypatch.setattr(main.flags, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", ["bin/program"])

    def parsed(*arguments):
        with pytest.raises(SystemExit) as stop:
            main._parse(["program", *arguments])
        return stop.value.code, capsys.readouterr().err

    return parsed


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--lr=0.1", "did you mean --learning_rate?"),
        ("--rate=0.1", "did you mean --learning_rate?"),
        ("--eps=8", "did you mean --epsilon?"),
        ("--epsilom=8", "did you mean --epsilon?"),
        ("--steps=8", "did you mean --attack_steps or --test_steps?"),
        ("--colour=red", "--help lists all"),
    ],
)
def test_an_unknown_flag_gets_one_line_with_the_near_names(parse, argument, hint):
    name = argument.partition("=")[0]
    assert parse(argument) == (2, f"program: there is no flag {name}; {hint}\n")


def test_a_flagfile_that_cannot_be_read_is_named_in_one_line(parse, tmp_path):
    status, error = parse(f"--flagfile={tmp_path}/missing.flags")
    assert status == 2 and len(error.splitlines()) == 1
    assert f"No such file or directory: '{tmp_path}/missing.flags'" in error
    (tmp_path / "picture.flags").write_bytes(b"\xff\xd8\xff")
    status, error = parse(f"--flagfile={tmp_path}/picture.flags")
    assert status == 2 and len(error.splitlines()) == 1 and "no text" in error


def test_an_argument_that_is_no_flag_is_refused(parse):
    assert parse("0.1") == (
        2,
        "program: unexpected argument '0.1'; every option is a flag: --name=value\n",
    )


PROGRAMS = (
    "sat_tf.train",
    "sat_tf.evaluate",
    "sat_tf.convert",
    "sat_tf.activations",
    "export.saved_model",
    "benchmarks.activations",
    "benchmarks.evaluate",
    "benchmarks.study",
    "benchmarks.train_step",
)


@pytest.mark.parametrize(
    "program", [PROGRAMS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in PROGRAMS[1:])]
)
@pytest.mark.parametrize("flag", ["--help", pytest.param("--helpfull", marks=pytest.mark.slow)])
def test_help_is_no_error(program, flag):
    if program == "sat_tf.activations" and flag == "--helpfull":
        pytest.skip("argparse has --help alone")
    done = subprocess.run(
        [sys.executable, "-m", program, flag], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout and "Traceback" not in done.stderr
