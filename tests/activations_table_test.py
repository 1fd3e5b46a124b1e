"""The table's figures equal closed forms, and the picture is a picture."""

import math
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

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


def test_command_prints_a_line_for_each_activation_and_draws_them(tmp_path, capsys, monkeypatch):
    picture, drawn, save = tmp_path / "curves.png", [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **options: (
        drawn.append(figure) or save(figure, *given, **options)
    ))  # fmt: skip
    table.main(["softplus", "celu:alpha=2", f"--picture={picture}"])
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["activation", "f(0)", "f′(0)"] and last == str(picture)
    assert [line.split()[:5] for line in lines] == [
        ["softplus", "0.6931", "0.500", "0.250", "0.000"],
        ["celu:alpha=2", "0.0000", "1.000", "0.500", "0.000"],
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    functions = (lambda x: np.log1p(np.exp(x)), lambda x: np.where(x > 0, x, 2 * np.expm1(x / 2)))
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["softplus", "celu:alpha=2"]
    for axes, function in zip(drawn[0].axes, functions, strict=True):
        curves = {line.get_label(): line.get_data() for line in axes.get_lines()}
        x, values = curves["f"]
        np.testing.assert_allclose(values, function(x), atol=1e-12)
        np.testing.assert_array_equal(curves["relu"], [x, np.maximum(x, 0)])
        for label, of in (("f′", "f"), ("f″", "f′")):
            slopes = np.gradient(curves[of][1], x)
            away = np.abs(x) > 0.01  # f″ of celu jumps at 0
            np.testing.assert_allclose(curves[label][1][away][1:-1], slopes[away][1:-1], atol=1e-4)


def test_unknown_activation_ends_the_command_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        table.main(["swihs"])
    assert stopped.value.code == 2
    assert "parametric_softplus" in (error := capsys.readouterr().err)
    assert error.startswith(f"{quiet.program(sys.orig_argv)}: ")
