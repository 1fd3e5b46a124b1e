"""The table's figures equal closed forms, and the picture is a picture."""

import math
import sys

import pytest

from sat_tf import quiet
from sat_tf.activations import table


@pytest.mark.parametrize(
    "spec, value, slope, curvature, order",
    [
        ("relu", 0, 0, math.inf, 0),
        ("swish", 0, 0.5, 1 / 2, 2),
        ("swish:beta=3", 0, 0.5, 3 / 2, 2),
        ("gelu", 0, 0.5, math.sqrt(2 / math.pi), 2),
        ("gelu_tanh", 0, 0.5, math.sqrt(2 / math.pi), 2),
        ("softplus", math.log(2), 0.5, 1 / 4, 2),
        ("parametric_softplus", math.log(2) / 10, 0.5, 10 / 4, 2),
        ("elu", 0, 1, 1, 1),
        ("elu:alpha=1.6", 0, 1.6, math.inf, 0),
        ("celu:alpha=1.6", 0, 1, 1 / 1.6, 1),
        ("smoothrelu", 0, 0, 400, 1),
        ("pssilu", 0, 0.5, 1 / 2, 2),
        ("tensorflow:nn.relu6", 0, 0, math.inf, 0),
        ("tensorflow:math.log_sigmoid", -math.log(2), 0.5, 1 / 4, 2),  # bends down everywhere
    ],
)
def test_figures_equal_the_closed_forms(spec, value, slope, curvature, order):
    found = table.smoothness(spec)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.slope == pytest.approx(slope, abs=1e-7)
    assert found.curvature == pytest.approx(curvature, rel=1e-5)
    assert (found.where, found.order) == (0, order)


def test_command_prints_a_line_for_each_activation_and_draws_them(tmp_path, capsys):
    picture = tmp_path / "curves.png"
    table.main(["swish", "celu:alpha=2", f"--picture={picture}"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "activation",
        "swish",
        "celu:alpha=2",
        str(picture),
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_unknown_activation_ends_the_command_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        table.main(["swihs"])
    assert stopped.value.code == 2
    assert "parametric_softplus" in (error := capsys.readouterr().err)
    assert error.startswith(f"{quiet.program(sys.orig_argv)}: ")
