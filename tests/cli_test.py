"""What is wrong with the command line is said in one line; help is no error."""

import contextlib
import io
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import types

import pytest
import tensorflow as tf
from absl import app, flags

from sat_tf import __main__ as listing
from sat_tf import cli, flagfiles, help, quiet, runs
from sat_tf.data import crops
from sat_tf.runs import Interrupted, atomic, sealed

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def parse(monkeypatch, capsys):
    """Parses arguments against four flags; returns the status and stderr."""
    values = flags.FlagValues()
    flags.DEFINE_float("learning_rate", 0.1, "", flag_values=values)
    flags.DEFINE_float("epsilon", 8.0, "", flag_values=values)
    flags.DEFINE_integer("attack_steps", 1, "", flag_values=values)
    flags.DEFINE_integer("test_steps", 1, "", flag_values=values)
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", ["bin/program"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "bin/program"])

    def parsed(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli._parse(["program", *arguments])
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
    assert status == 2 and len(error.splitlines()) == 1
    assert f"{tmp_path}/picture.flags is damaged" in error


def test_the_flags_of_a_run_are_taken_as_they_were_written_or_refused(parse, tmp_path):
    path = tmp_path / "flags.txt"
    written = sealed.signed_text("--epsilon=8.0\n--test_steps=20\n").encode()
    path.write_bytes(written)
    lines = ["--epsilon=8.0", "--test_steps=20"]
    assert flagfiles.expanded([f"--flagfile={path}"]) == lines
    for place in range(len(written)):
        path.write_bytes(bytes(b ^ (i == place) for i, b in enumerate(written)))
        try:
            found = flagfiles.expanded([f"--flagfile={path}"])
        except ValueError as error:
            assert len(str(error).splitlines()) == 1 and f"{path} is damaged" in str(error)
        else:  # the flags are what they were: it is the mark of the digest that is damaged
            assert found[:2] == lines and place >= written.index(b"#")
    path.write_bytes(written.replace(b"8", b"9"))
    status, error = parse(f"--flagfile={path}")
    assert status == 2 and len(error.splitlines()) == 1 and "take its last line out" in error


def test_a_flagfile_inside_another_counts_from_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "base.flags").write_text("# all\n--epsilon=4\n--attack_steps=2\n")
    (tmp_path / "deep/middle.flags").write_text("--flagfile=../base.flags\n\n  --epsilon=5\n")
    (tmp_path / "deep/er/top.flags").write_text(f"--flagfile {tmp_path}/deep/middle.flags".replace(
        " ", "="))  # fmt: skip
    lines = ["--epsilon=4", "--attack_steps=2", "--epsilon=5"]
    for folder, path in (
        ("deep", "er/top.flags"),
        ("deep/er", "top.flags"),
        (".", "deep/er/top.flags"),
    ):
        monkeypatch.chdir(tmp_path / folder)
        for given in ([f"--flagfile={path}"], ["--flagfile", path]):
            assert flagfiles.expanded(["program", *given, "--x"]) == ["program", *lines, "--x"]


def test_a_recipe_is_found_by_name_and_an_unknown_name_lists_all(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    (folder / "deep").mkdir(parents=True)
    (folder / "base.flags").write_text("--epsilon=4\n")
    (folder / "deep/top_alpha1.2.flags").write_text("--flagfile=../base.flags\n--steps=2\n")
    known = flagfiles.recipes([types.SimpleNamespace(__file__=str(tmp_path / "theme.py"))])
    (tmp_path / "work/base").mkdir(parents=True)  # a folder is no file of flags
    monkeypatch.chdir(tmp_path / "work")

    def found(value):
        return flagfiles.expanded([f"--flagfile={value}"], known)

    assert found("base") == ["--epsilon=4"]
    assert found("deep/top_alpha1.2") == ["--epsilon=4", "--steps=2"]
    pathlib.Path("mine").write_text("--flagfile=base\n--epsilon=5\n")
    assert found("mine") == found(tmp_path / "work/mine") == ["--epsilon=4", "--epsilon=5"]
    for unknown in ("bass", "deep/top", "deep"):
        with pytest.raises(
            ValueError, match=r"name of a recipe; recipes: base, deep/top_alpha1.2$"
        ):
            found(unknown)
    with pytest.raises(ValueError, match="No such file or directory: 'base.flags'"):
        found("base.flags")  # a path, not a name
    (tmp_path / "work/base").rmdir()
    (tmp_path / "work/base").write_text("--epsilon=6\n")
    assert found("base") == ["--epsilon=6"]


def test_a_flagfile_that_names_itself_or_what_is_not_there_is_refused(parse, tmp_path):
    (tmp_path / "a.flags").write_text("--flagfile=b.flags\n")
    (tmp_path / "b.flags").write_text("--flagfile=a.flags\n")
    (tmp_path / "c.flags").write_text("--flagfile=d.flags\n")
    status, error = parse(f"--flagfile={tmp_path}/a.flags")
    assert status == 2 and "names itself" in error
    status, error = parse(f"--flagfile={tmp_path}/c.flags")
    assert status == 2 and len(error.splitlines()) == 1
    assert "d.flags" in error and f"named in {tmp_path}/c.flags" in error
    (tmp_path / "e.flags").write_text("--flagfile=c.flags\n")
    assert f"named in {tmp_path}/c.flags" in parse(f"--flagfile={tmp_path}/e.flags")[1]
    status, error = parse("--flagfile=~nobody-of-this-name/e.flags")
    assert status == 2 and "No such file or directory: '~nobody" in error


def test_an_argument_that_is_no_flag_is_refused(parse):
    assert parse("0.1") == (
        2,
        "program: unexpected argument '0.1'; every option is a flag: --name=value\n",
    )


def test_operands_stand_before_and_behind_flags_where_a_program_takes_them(parse, monkeypatch):
    rest = cli._parse(["program", "a.jpg", "--epsilon=4", "b.jpg", "--", "--c.jpg"], operands=True)
    assert (rest[1:], cli.flags.FLAGS.epsilon) == (["a.jpg", "b.jpg", "--c.jpg"], 4.0)
    taken = []
    monkeypatch.setattr(cli, "_end", lambda said, status: None)
    monkeypatch.setattr(cli, "_guarded", lambda main: main())
    monkeypatch.setattr(cli.app, "run", lambda main, flags_parser: main(["program", "a.jpg"]))
    cli.run(taken.append, operands=True)
    assert taken == [["a.jpg"]]


# A package of the program's own module, from which TensorFlow is started.
STARTED = """
import gc, sys
import sat_tf
seldom = {"matplotlib", "pandas", "scipy.stats", "sklearn"}
print(sorted(seldom & sys.modules.keys()), gc.isenabled(), "keras" in sys.modules)
import matplotlib.pyplot, sklearn.base
"""


def test_a_program_starts_without_what_keras_has_for_wrappers_and_plots(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(STARTED)
    (tmp_path / "mine" / "__main__.py").touch()
    command = [sys.executable, "-m", "mine"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "[] True True\n"), done.stderr
        env.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the user's own, with which TensorFlow may log


@pytest.mark.parametrize(
    ("command", "first", "name"),
    [
        ("python -X dev -m sat_tf.train --epochs=1", "/code/sat_tf/train.py", "sat_tf.train"),
        ("python -m sat_tf.train", "-m", "sat_tf.train"),  # while its package is imported
        ("python bin/sat-train --epochs=1", "bin/sat-train", "sat-train"),
        ("python bin/mine.py --epochs=1", "bin/mine.py", "mine.py"),
        ("python bin/mine.py -m other", "bin/mine.py", "mine.py"),
    ],
)
def test_messages_begin_with_what_the_program_was_started_as(monkeypatch, command, first, name):
    monkeypatch.setattr(sys, "argv", [first])
    assert quiet.program(command.split()) == name
    monkeypatch.setattr(sys, "orig_argv", command.split())
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as error:
        cli._leave("no", 2)
    assert error.getvalue() == f"{name}: no\n"


PROGRAMS = (
    "sat_tf.train",
    "sat_tf.evaluate",
    "sat_tf.convert",
    "sat_tf.zoo",
    "sat_tf.activations",
    "export.saved_model",
    "export.pytorch",
    "export.onnx",
    "export.litert",
    "export.client",
    "benchmarks.activations",
    "benchmarks.evaluate",
    "benchmarks.input",
    "benchmarks.serving",
    "benchmarks.studies.encoded",
    "benchmarks.studies.one_image",
    "benchmarks.studies.study",
    "benchmarks.train_step",
)


def python(*arguments, **options):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_the_list_of_programs_is_whole_and_needs_no_tensorflow():
    mains = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("sat_tf", "export", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    # The list itself, and what other programs start.
    alone = {"sat_tf.__main__", "export.verify", "benchmarks.worker"}
    mains = {name if name in alone else name.removesuffix(".__main__") for name in mains}
    assert mains - alone == set(PROGRAMS)
    listed = python("-X", "importtime", "-m", "sat_tf")
    out, err = listed.communicate(timeout=100)
    assert [line.split()[2] for line in out.splitlines()[: len(PROGRAMS)]] == list(listing.PROGRAMS)
    assert set(listing.PROGRAMS) == set(PROGRAMS)
    assert listed.returncode == 0 and "tensorflow" not in err


def test_what_an_installed_package_lists_is_what_is_inside_it():
    found = set(listing.starts(installed=True))
    names = {name for name in PROGRAMS if not name.startswith("benchmarks.")}
    modules = {name.replace("export.", "sat_tf.export.") for name in names}
    others = modules - set(quiet.COMMANDS.values())
    assert found == {*quiet.COMMANDS, *(f"python -m {name}" for name in others)}
    assert len(found) == len(names)


# As a script that imports the library first: none of TensorFlow's lines either.
SCRIPT = """
import sat_tf
import signal, threading, time
from sat_tf import cli, help
from sat_tf.data import crops
def program():
    threading.Thread(target=time.sleep, args=(3600,)).start()
    {what}
cli.run(program)
"""


def test_a_program_ends_at_once_whatever_still_runs_and_imports_in_silence(forked):
    process = python("-c", SCRIPT.format(what="print('done')"))
    assert process.communicate(timeout=300) == ("done\n", "") and process.returncode == 0
    stopped = forked.run("-c", SCRIPT.format(what="signal.raise_signal(signal.SIGINT)"))
    assert stopped == (130, "", "-c: stopped by SIGINT\n")


def test_ctrl_c_while_a_program_starts_is_one_line():
    process = python("-m", "sat_tf.train", "--epochs=1")
    deadline = time.monotonic() + 100
    while "tensorflow" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "sat_tf.train: stopped by SIGINT before it began\n")


@pytest.mark.parametrize(
    "program", [PROGRAMS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in PROGRAMS[1:])]
)
@pytest.mark.parametrize("flag", ["--help", pytest.param("--helpfull", marks=pytest.mark.slow)])
def test_help_is_no_error(program, flag, forked):
    if program == "sat_tf.activations" and flag == "--helpfull":
        pytest.skip("argparse has --help alone")
    status, out, err = forked.run(program, flag)
    assert status == 0, err
    assert "--" in out and "Traceback" not in err
    if flag == "--help":
        examples = [line for line in out.splitlines() if f"  python -m {program}" in line]
        assert len(examples) >= 3
        assert all(len(line) <= 80 for line in out.splitlines())


def test_help_ends_quietly_when_its_reader_has_left():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "export.client", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_shows_flags_by_theme_with_range_and_default(monkeypatch):
    values = flags.FlagValues()
    for name, module in (("depth", "flags.model"), ("epsilon", "flags.attack")):
        flags.DEFINE_float(name, 0.5, f"{name} in pixels.", 0, 8, values, module_name=module)
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module, f"About {name}.\n"))
    flags.DEFINE_bool("fast", True, "Hurry.", values, module_name="flags.model")
    flags.DEFINE_enum(
        "norm", "l2", ["linf", "l2"], "Of the ball.", values, module_name="flags.attack"
    )
    for name in ("epsilon", "norm", "fast", "depth"):
        values.register_key_flag_for_module(sys.argv[0], values[name])
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    assert (
        help.text("What it does.")
        == """What it does.

About epsilon:
  --epsilon  a number in the range [0, 8]; default 0.5
      epsilon in pixels.
  --norm  linf, l2; default l2
      Of the ball.

About depth:
  --[no]fast  yes or no; default true
      Hurry.
  --depth  a number in the range [0, 8]; default 0.5
      depth in pixels.

--flagfile=FILE reads flags from a file, one a line, or from a recipe by name."""
    )


def test_help_fits_eighty_columns_and_its_examples_can_be_pasted(monkeypatch):
    values = flags.FlagValues()
    names = ["relu", "swish", "gelu", "gelu_tanh", "elu", "celu", "softplus", "mish", "pssilu"]
    flags.DEFINE_multi_string("activation", names, "What.", values, module_name="of.no.theme")
    values.register_key_flag_for_module(sys.argv[0], values["activation"])
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    prose = "It does " + "this and that, " * 20 + "no more."
    example = "python -m program " + " ".join(f"--flag_{number}=value" for number in range(12))
    # Where a docstring's line ends in a backslash, Python goes on with the next one's spaces.
    goes_on = example.replace(" --flag_3", " " * 9 + "--flag_3")
    shown = help.text(f"{prose}\n\n    {goes_on}\n    python -m program\n\n{prose}\n")
    assert max(map(len, shown.splitlines())) <= 80
    first, examples, second = shown.partition("\n\nFlags")[0].split("\n\n")
    assert [" ".join(text.split()) for text in (first, second)] == [prose, prose]
    assert not re.search(r"\S  ", examples)
    commands = examples.replace("\\\n", "").splitlines()
    assert [shlex.split(command) for command in commands] == [
        example.split(),
        ["python", "-m", "program"],
    ]
    assert "text, repeatable; default relu, swish, " in shown and "[" not in shown


def test_the_examples_of_help_begin_with_the_command_that_was_given(monkeypatch):
    monkeypatch.setattr(cli.flags, "FLAGS", flags.FlagValues())
    about = "As `python -m sat_tf.train`:\n\n    python -m sat_tf.train --epochs=1\n"
    monkeypatch.setattr(sys, "argv", ["bin/sat-train"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "bin/sat-train", "--help"])
    first, example, *_ = help.text(about).split("\n\n")
    assert (first, example) == ("As `python -m sat_tf.train`:", "    sat-train --epochs=1")


# As pip's script does it, whose own folder is on the path in place of the current one.
COMMAND = """
import os, sys
os.chdir({folder!r})
sys.path[sys.path.index("")] = {root!r}
sys.argv, sys.orig_argv = ["bin/sat-train", {flag!r}], ["python", "bin/sat-train", {flag!r}]
from sat_tf.train import command
command()
"""


def test_a_command_is_the_program_and_finds_modules_of_the_current_folder(tmp_path, forked):
    (tmp_path / "mine.py").write_text("def soft(x):\n    return None\n")

    def run(flag):
        return forked.run("-c", COMMAND.format(folder=str(tmp_path), root=str(ROOT), flag=flag))

    status, _, error = run("--activation=mine:soft")
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith("sat-train: ") and "got NoneType" in error
    outputs = [run("--help")[1], forked.run("sat_tf.train", "--help")[1]]
    themes = [shown.partition("\n\nWhich")[2] for shown in outputs]
    assert themes[0] == themes[1] != ""


def test_colours_of_a_library_stay_out_of_the_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bin/program"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "bin/program"])
    with pytest.raises(SystemExit):
        cli._leave("a \x1b[1mbold\x1b[0m\nword", 2)
    assert capsys.readouterr().err == "program: a bold word\n"


def test_what_the_graph_of_the_data_refuses_is_one_line_and_other_faults_keep_their_traceback(
    monkeypatch,
):
    ended = []
    monkeypatch.setattr(cli, "_end", lambda said, status: ended.append((str(said), status)))
    monkeypatch.setattr(cli.flags, "FLAGS", {"verbosity": types.SimpleNamespace(present=True)})
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (9000).to_bytes(4) + (8000).to_bytes(4)
    encoded = tf.data.Dataset.from_tensors(header).map(crops.decode)
    cli._guarded(lambda: list(encoded))
    assert ended[0] == (
        "a picture claims height and width 8000 9000 of at most max_pixels=16777216",
        2,
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        cli._guarded(lambda: tf.reshape(tf.zeros(3), [2]))


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (Interrupted("stopped; go on", signal.SIGTERM), 143),
        (Interrupted("stopped; go on", signal.SIGINT), 130),
        (KeyboardInterrupt(), 130),
        (FloatingPointError("no number"), 2),
        (tf.errors.ResourceExhaustedError(None, None, "no memory"), 2),
    ],
)
def test_an_end_has_one_line_and_the_status_that_a_shell_gives_it(
    raised, status, monkeypatch, capsys
):
    def program():
        raise raised

    monkeypatch.setattr(sys, "argv", ["bin/program"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "bin/program"])
    monkeypatch.setattr(cli.os, "_exit", sys.exit)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    values = flags.FlagValues()
    flags.DEFINE_integer("verbosity", 0, "", flag_values=values)
    values(["program", "--verbosity=0"])
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    with pytest.raises(SystemExit) as stop:
        cli._guarded(program)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (status, "", 1)
    assert err.startswith("program: ")


def test_what_is_half_written_goes_when_sigterm_ends_a_program_that_tidies(monkeypatch, tmp_path):
    def program(*_):
        with atomic.making(tmp_path / "a.onnx") as folder:
            (folder / "half").touch()
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(cli.app, "run", lambda _, flags_parser: program())
    with runs.handling_stops(signal.SIG_IGN):
        cli.run(program)
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            cli.run(program, tidies=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shown", ["help", "helpfull", "of the program"])
def test_a_reader_that_has_had_enough_is_no_error(shown, monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_string("long", None, "word " * 20_000, flag_values=values)  # more than a pipe has
    flags.DEFINE_flag(app.HelpfullFlag(), flag_values=values)
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    monkeypatch.setattr(app.flags, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", ["bin/program"])
    monkeypatch.setattr(cli.os, "_exit", sys.exit)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as stop:
            if shown == "of the program":
                print("few words")  # which stay in the buffer until the end
                cli._end(None, 0)
            cli._parse(["program", f"--{shown}"], main=cli.run)
        assert stop.value.code == 0
