"""The report says what the verdicts say, in every form it takes."""

import base64
import dataclasses
import html.parser
import io
import json
import re
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats

from sat_tf.evaluation.outcome import CurvePoint, Examples, Outcome, broken_by, steps_curve
from sat_tf.evaluation.report import Report, artefacts, page, plots, tables
from sat_tf.evaluation.report.statistics import interval

NUM = 10


def bits(text):
    return np.array([letter == "1" for letter in text])


@pytest.fixture
def report():
    clean = bits("1111111100")
    pgd, square = bits("1111100000"), bits("1110000000")
    outcomes = [
        Outcome(
            "pgd-3",
            {"epsilon": 8.0, "norm": "linf", "steps": 3},
            np.ones(NUM, bool),
            pgd,
            bits("1111110100"),
            np.array([-1, -1, -1, -1, -1, 0, 2, 2, -1, -1]),
            np.full(NUM, 8.0),
            0,
            1.5,
            48,
            40,
            40,
        ),
        Outcome(
            "square",
            {"epsilon": 8.0, "norm": "linf", "queries": 50},
            pgd,
            square,
            None,
            np.array([-1, -1, -1, 7, 40, -1, -1, -1, -1, -1]),
            np.where(pgd, 7.5, 0.0),
            0,
            2.5,
            120,
            100,
            250,
        ),
    ]
    rng = np.random.default_rng(0)
    pictures = rng.uniform(0, 255, (2, 3, 8, 8, 3)).astype(np.float32)
    guess = np.full((3, 4), 0.25)
    return Report(
        labels=np.arange(NUM) % 4,
        clean=clean,
        outcomes=outcomes,
        curve=[CurvePoint(0.0, clean, 0.0), CurvePoint(4.0, pgd, 1.0)],
        checks=[
            {"name": "logits", "passed": False, "found": "<b>", "consequence": "beware"},
            {"name": "square", "passed": None, "found": "absent", "consequence": "take it"},
            {"name": "pixels", "passed": True, "found": "fine", "consequence": ""},
        ],
        examples=Examples(pictures[0], pictures[1], np.arange(3), (guess, guess)),
        facts={"seed": 0, "network": {"name": "n"}, "versions": {"sat_tf": "0"}},
        seconds=4.0,
    )


def test_json_holds_the_verdict_of_every_image(report, tmp_path):
    report.save(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["schema_version"] == 1 and read["num_images"] == NUM
    assert read["clean_accuracy"] == 0.8 and read["adversarial_accuracy"] == 0.3
    first, second = read["attacks"]
    assert first["adversarial_accuracy_last_iterate"] == 0.7
    assert (first["adversarial_accuracy"], first["num_attacked"]) == (0.5, 10)
    assert (second["adversarial_accuracy"], second["num_attacked"]) == (0.3, 5)
    assert "adversarial_accuracy_last_iterate" not in second
    images = read["images"]
    assert images["broken_by"] == [None] * 3 + ["square"] * 2 + ["pgd-3"] * 3 + [None] * 2
    assert images["broken_step"] == [None, None, None, 7, 40, 0, 2, 2, None, None]
    assert images["clean_correct"] == [1] * 8 + [0] * 2
    assert images["standing"] == [1] * 3 + [0] * 7
    assert images["distance"] == [7.5] * 5 + [8.0] * 5
    assert images["last_iterate_correct"] == {"pgd-3": [1, 1, 1, 1, 1, 1, 0, 1, 0, 0]}
    assert [point["epsilon"] for point in read["curve"]] == [0.0, 4.0]
    assert read["attacks"][0]["steps_curve"] == [[0, 0.7], [2, 0.5]]
    costs = [second[f"evaluations_{kind}"] for kind in ("needed", "paid", "plain")]
    assert costs == [100, 120, 250] and second["saved_by_packing"] == pytest.approx(0.52)
    assert read["saved_images"] is None and images["index"] == list(range(NUM))


def test_an_image_is_broken_by_the_first_attack_after_which_it_does_not_stand(report):
    found = broken_by(report.clean, report.outcomes)
    assert found.tolist() == [-1, -1, -1, 1, 1, 0, 0, 0, -1, -1]


def test_steps_curve_counts_who_stands_after_so_many_evaluations(report):
    assert steps_curve(report.outcomes[1]) == [(0, 0.5), (7, 0.4), (40, 0.3)]
    for outcome in report.outcomes:
        for step, fraction in steps_curve(outcome):
            fell = (outcome.broken_step >= 0) & (outcome.broken_step <= step)
            before = outcome.standing | (outcome.broken_step >= 0)
            assert fraction == (before & ~fell).mean()


@pytest.mark.parametrize("correct, total", [(0, 10), (3, 10), (10, 10), (5000, 10000)])
def test_interval_inverts_the_score_test(correct, total):
    low, high = interval(np.arange(total) < correct)
    z = stats.norm.ppf(0.975)
    for bound in {low, high} - {0.0, 1.0}:
        deviation = abs(correct / total - bound) / np.sqrt(bound * (1 - bound) / total)
        assert deviation == pytest.approx(z, rel=1e-6)
    assert 0 <= low <= correct / total <= high <= 1


def test_tables_hold_the_figures(report):
    rows = {line.split()[0]: line.split() for line in report.table().splitlines()[3:]}
    assert rows["clean"][1] == "80.00"
    assert rows["pgd-3"][1:3] == ["70.00", "50.00"]
    assert rows["square"][1] == "30.00"
    assert rows["square"][-4:] == ["100", "120", "52", "%"]
    large = [
        dataclasses.replace(report.outcomes[0], name="apgd-dlr", image_steps=72_159_000,
                            slot_steps=72_360_000, plain_steps=72_360_000, seconds=12345.6),
    ]  # fmt: skip
    wide = dataclasses.replace(report, outcomes=large).table().splitlines()
    assert max(map(len, wide)) <= 80 and "72.2M  72.4M" in wide[-1]
    assert "4" in report.curve_table() and "50.00" in report.curve_table()
    assert report.outcome("square").name == "square"
    for number, written in [(9999, "9,999"), (72159, "72.2k"), (999_600, "1.00M"), (10**6, "1.00M"),
                            (720_000, "720k"), (5_072_159, "5.07M")]:  # fmt: skip
        outcome = dataclasses.replace(report.outcomes[1], image_steps=number)
        assert tables.cost(outcome, tables._short)[0] == written
    with pytest.raises(ValueError, match="'fab' is not in this report; it has: pgd-3, square"):
        report.outcome("fab")


def test_the_page_is_whole_and_asks_nothing_of_the_network(report):
    names = ["cat", "dog", "bee", "ant"]
    text = page.write(report, "a <title>", names)

    class Parser(html.parser.HTMLParser):
        tags, links = [], []

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            self.links += [v for k, v in attributes if k in ("src", "href")]

    parser = Parser()
    parser.feed(text)
    assert "script" not in parser.tags and "link" not in parser.tags
    pictures = plots.draw_all(report, names)
    assert len(pictures) == 3 and pictures["pictures"] != plots.grid(report)
    data = [base64.b64encode(png).decode() for png in pictures.values()]
    assert sorted(parser.links) == sorted(f"data:image/png;base64,{one}" for one in data)
    assert text.count("a &lt;title&gt;") == 2 and "&lt;b&gt;" in text and "<b></td>" not in text
    kinds = ("failed", "not run", "passed")
    assert [f'class="{kind.replace(" ", "-")}">{kind}<' in text for kind in kinds] == [True] * 3
    for said in ("80.00 %", "30.00 %", "beware", "pixels in [0, 255]", "square", "52 %"):
        assert said in text


def test_artefacts_are_written_beside_the_report(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    about = {"model": "resnet18", "dataset": "cifar10", "class_names": list("abcd")}
    names = [name for name in artefacts.NAMES if name not in ("npz", "tfrecord")]
    written = artefacts.write(report, names, path, title="t", about=about)
    assert {one.name for one in written} == {
        "report.html",
        "report.curve.png",
        "report.steps.png",
        "report.pictures.png",
        "report.tensorboard",
        "report.model_info.json",
    }
    assert {one.name for one in tmp_path.iterdir()} == {one.name for one in written}
    for png in tmp_path.glob("*.png"):
        assert np.asarray(Image.open(io.BytesIO(png.read_bytes()))).std() > 1
    info = json.loads((tmp_path / "report.model_info.json").read_text())
    assert info["eps"] == "8/255" and info["clean_acc"] == "80.00"
    assert info["autoattack_acc"] is None, "only the four attacks of standard make that figure"
    with pytest.raises(ValueError, match="'pdf'; use some of: html"):
        artefacts.write(report, ["pdf"], path, title="t", about=about)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ValueError, match="matplotlib.figure is not installed.*report.json is"):
            artefacts.write(report, ["plots"], path, title="t", about=about)
    with pytest.raises(ValueError, match="npz needs the adversarial images"):
        artefacts.write(report, ["npz"], path, title="t", about=about)


def test_tensorboard_holds_the_same_figures(report, tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    artefacts.summaries(report, tmp_path)
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["tensors"]

    def values(tag):
        return [
            (event.step, float(np.frombuffer(event.tensor_proto.tensor_content, "f4")[0]))
            if event.tensor_proto.tensor_content
            else (event.step, event.tensor_proto.float_val[0])
            for event in events.Tensors(tag)
        ]

    assert values("evaluation/adversarial_accuracy") == [(0, pytest.approx(0.3))]
    assert values("evaluation/epsilon") == [(0, pytest.approx(0.8)), (4000, pytest.approx(0.5))]
    steps = dict(values("evaluation/steps/square"))
    assert steps == {0: pytest.approx(0.5), 7: pytest.approx(0.4), 40: pytest.approx(0.3)}
    assert "evaluation/pictures" in tags


def test_events_that_did_not_reach_the_disk_are_missed(report, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.summary, "image", lambda *arguments: None)
    with pytest.raises(OSError, match="cannot write .*events.*is the disk full"):
        artefacts.summaries(report, tmp_path / "events")


def pgd(report, steps, standing, seed=0):
    settings = {"epsilon": 8.0, "norm": "linf", "steps": steps, "seed": seed}
    fell = np.where(np.arange(NUM) < standing, -1, steps)
    return dataclasses.replace(report.outcomes[0], name=f"pgd-{steps}", settings=settings,
                               standing=np.arange(NUM) < standing, broken_step=fell)  # fmt: skip


def test_pgd_of_one_run_is_one_line_with_a_mark_where_each_attack_ends(report):
    report.outcomes = [*(pgd(report, n, 8 - n) for n in (1, 2, 4)), pgd(report, 3, 5, seed=1)]
    (axes,) = plots.steps(report).axes
    lines = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert len(lines) == 2
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert marks[0].get_label() == "pgd-1, 2, 4" and marks[1].get_label() == "pgd-3"
    np.testing.assert_allclose(marks[0].get_xydata(), [(2, 70), (3, 60), (5, 40)])
    # The start is an image's first evaluation; iterate k is the one after k more.
    assert [line.get_xdata().tolist() for line in lines] == [[1, 5, 5], [1, 4, 4]]
    # Four of ten stand after the longest, five after the other; eight are right when clean.
    for line, heights in zip(lines, ([100, 40, 40], [100, 50, 50]), strict=True):
        np.testing.assert_allclose(line.get_ydata(), heights)
    assert sum(list(line.get_ydata()) == [80, 80] for line in axes.lines) == 1


@pytest.mark.parametrize("standing, bottom", [(990, 94), (978, 94), (300, 0)])
def test_the_axis_of_a_plot_spans_what_it_shows_and_says_where_it_begins(report, standing, bottom):
    correct = np.arange(1000) < 992
    report.curve = [
        CurvePoint(0.0, correct, 0.0),
        CurvePoint(4.0, np.arange(1000) < standing, 1.0),
    ]
    (axes,) = plots.curve(report).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [(0, 99.2), (4, standing / 10)])
    low, high = axes.get_ylim()
    assert low < 100 * standing / 1000 and 99.2 < high <= 100.5
    assert (low == 0) == (bottom == 0) and low >= bottom
    assert axes.get_ylabel() == ("accuracy in %" + (f" (from {low:g})" if bottom else ""))
    (band,) = (one.get_paths()[0].vertices for one in axes.collections)
    for radius, count in ((0, 992), (4, standing)):
        ends = np.unique(band[band[:, 0] == radius, 1])
        np.testing.assert_allclose(ends, 100 * np.array(wilson(count, 1000)), atol=1e-6)


def test_pictures_of_grey_images_are_drawn_too(report):
    grey = report.examples
    report.examples = grey._replace(
        clean=grey.clean[..., :1], adversarial=grey.adversarial[..., :1]
    )
    assert Image.open(io.BytesIO(plots.grid(report))).size[0] > 300


def wilson(correct, total):
    """Lower and upper end of Wilson's 95 % interval, from his formula."""
    z, share = 1.959963984540054, correct / total
    middle = share + z * z / (2 * total)
    half = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    return [(middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)]


def test_the_terminal_shows_the_tables_that_there_are_and_the_checks_that_failed(report):
    failed, curve = "check logits: <b>: beware", report.curve_table()
    assert report.text() == f"{report.table()}\n\n{curve}\n{failed}"
    with_steps = f"{report.table()}\n\n{curve}\n\n{report.steps_table()}\n{failed}"
    assert report.text(with_steps=True) == with_steps
    report.curve = []
    assert report.text() == f"{report.table()}\n{failed}"


def test_each_class_is_counted_on_its_own_images(report):
    rows = report.to_dict()["per_class"]
    assert [row["label"] for row in rows] == [0, 1, 2, 3]
    assert [row["num_images"] for row in rows] == [3, 3, 2, 2]
    # Images 8 and 9 are misclassified when clean, 0 to 2 alone stand in the end.
    np.testing.assert_allclose([row["clean_accuracy"] for row in rows], [2 / 3, 2 / 3, 1, 1])
    standing = [row["adversarial_accuracy"] for row in rows]
    np.testing.assert_allclose(standing, [1 / 3, 1 / 3, 1 / 2, 0])
    weights = np.array([row["num_images"] for row in rows]) / NUM
    np.testing.assert_allclose(weights @ standing, report.adversarial_accuracy)
    text = page.write(report, "title", ["cat", "dog", "hare", "<owl>"])
    assert "<tr><td>hare</td><td>2</td><td>100.00</td><td>50.00</td></tr>" in text
    assert "&lt;owl&gt;" in text
    # A class that no image has does not appear.
    some = dataclasses.replace(report, labels=np.full(NUM, 2))
    assert [row["label"] for row in some.per_class()] == [2]


def test_saved_images_have_the_positions_of_their_data_set(report):
    judged = types.SimpleNamespace(correct=report.standing, distance=np.arange(NUM) / 4)
    report.saved_images = judged
    assert report.columns()["index"].tolist() == list(range(NUM))
    report.positions = np.arange(NUM) * 3 + 1
    columns = report.columns()
    assert columns["index"].tolist() == report.positions.tolist()
    assert columns["distance"] is judged.distance and columns["saved_correct"] is judged.correct


def test_every_figure_of_the_report_is_what_the_verdicts_count(report):
    report.outcomes[0].unconfirmed, report.outcomes[1].slot_steps = 3, 150
    report.outcomes[1].distance[2] = 7.75
    report.positions = np.arange(NUM) * 3 + 1
    read = report.to_dict()

    def check(found, name, correct):
        assert found[name] == correct / NUM
        assert found[f"{name}_interval_95"] == pytest.approx(wilson(correct, NUM), abs=1e-9)

    check(read, "clean_accuracy", 8)
    check(read, "adversarial_accuracy", 3)
    first, second = read["attacks"]
    check(first, "adversarial_accuracy", 5)
    check(first, "adversarial_accuracy_last_iterate", 7)
    check(second, "adversarial_accuracy", 3)
    for point, correct in zip(read["curve"], (8, 5), strict=True):
        check(point, "adversarial_accuracy", correct)
    assert [point["seconds"] for point in read["curve"]] == [0.0, 1.0]
    names = ("num_attacked", "num_standing", "num_unconfirmed", "seconds", "largest_distance")
    assert [first[name] for name in names] == [10, 5, 3, 1.5, 8.0]
    assert [second[name] for name in names] == [5, 3, 0, 2.5, 7.75]
    costs = [f"evaluations_{kind}" for kind in ("needed", "paid", "plain")]
    assert [[one[name] for name in costs] for one in (first, second)] == [
        [40, 48, 40],
        [100, 150, 250],
    ]
    assert first["saved_by_packing"] == pytest.approx(-0.2)
    assert second["saved_by_packing"] == pytest.approx(0.4)
    assert (first["name"], second["name"]) == ("pgd-3", "square")
    assert first["settings"] == report.outcomes[0].settings
    assert second["steps_curve"] == [(0, 0.5), (7, 0.4), (40, 0.3)]
    assert read["images"]["label"] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert read["images"]["index"] == [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]
    assert (read["seed"], read["seconds"], read["checks"]) == (0, 4.0, report.checks)


def test_every_cell_of_the_tables_is_a_figure_of_the_report(report):
    report.outcomes[1].slot_steps = 150

    def span(correct):
        return "-".join(f"{100 * bound:.1f}" for bound in wilson(correct, NUM))

    rows = [line.split() for line in report.table().splitlines()[3:]]
    assert rows == [
        ["clean", "80.00", span(8)],
        ["pgd-3", "70.00", "50.00", span(5), "10", "1.5", "40", "48", "-20", "%"],
        ["square", "30.00", span(3), "5", "2.5", "100", "150", "40", "%"],
    ]
    low, high = wilson(5, NUM)
    assert report.curve_table().splitlines()[2].split()[:2] == ["0", "80.00"]
    last = report.curve_table().splitlines()[3].split()
    assert last == ["4", "50.00", f"{100 * low:.1f}", "to", f"{100 * high:.1f}"]
    assert [line.split() for line in report.steps_table().splitlines()[2:]] == [
        ["pgd-3", "1", "70.00"],
        ["pgd-3", "3", "50.00"],
        ["square", "1", "50.00"],
        ["square", "8", "40.00"],
        ["square", "41", "30.00"],
    ]
    report.facts["seed"] = 7
    text = page.write(report, "t")
    assert ">10 images, every one counted; lengths in pixels in [0, 255]; seed 7<" in text
    row = '<td>logits</td><td class="failed">failed</td><td>&lt;b&gt;</td><td>beware</td>'
    assert row in text and '<td class="not-run">not run</td><td>absent</td><td>take it</td>' in text
    figures = text[text.index('class="figures"') : text.index("<h2>Attacks")]
    for value, name in (("80.00", "clean accuracy"), ("70.00", "pgd-3, last iterate"),
                        ("30.00", "stands after all attacks")):  # fmt: skip
        assert f"<b>{value} %</b>{name}<br>" in figures
    cells = [one.split("</td>")[0] for one in text[: text.index("<h2>Checks")].split("<td>")[1:]]
    square = cells[cells.index("square") :]
    spans = " to ".join(span(3).split("-"))
    assert square[:10] == ["square", "", "30.00", spans, "5", "7.5", "2.5", "100", "150", "40 %"]


def test_model_info_is_unreliable_where_a_check_failed_and_names_autoattack_alone(report):
    assert artefacts.model_info(report.to_dict(), {})["unreliable"] is True
    report.checks = [check for check in report.checks if check["passed"] is not False]
    assert artefacts.model_info(report.to_dict(), {})["unreliable"] is False
    names = ["apgd-ce", "apgd-t", "fab-t", "square"]
    for order, said in ((names, "30.00"), (names[::-1], None), (names[:3], None)):
        report.outcomes = [dataclasses.replace(report.outcomes[-1], name=name) for name in order]
        info = artefacts.model_info(report.to_dict(), {"model": "m", "dataset": "cifar10"})
        assert info["autoattack_acc"] == said
        assert (info["reported"], info["clean_acc"], info["dataset"]) == (
            "30.00",
            "80.00",
            "cifar10",
        )
    round_ball = {"epsilon": 127.5, "norm": "l2"}
    report.outcomes = [dataclasses.replace(report.outcomes[-1], settings=round_ball)]
    assert artefacts.model_info(report.to_dict(), {})["eps"] == "0.5"


def test_events_hold_every_accuracy_of_every_attack(report, tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    artefacts.summaries(report, tmp_path)
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    found = {
        tag: [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if not tag.endswith("pictures")
    }
    expected = {
        "clean_accuracy": [0.8],
        "adversarial_accuracy": [0.3],
        "standing/pgd-3": [0.5],
        "standing/square": [0.3],
        "last_iterate/pgd-3": [0.7],
        "steps/pgd-3": [0.7, 0.5],
        "steps/square": [0.5, 0.4, 0.3],
        "epsilon": [0.8, 0.5],
    }
    assert found == {f"evaluation/{k}": pytest.approx(v) for k, v in expected.items()}


def test_the_page_begins_with_the_last_iterate_of_the_longest_pgd(report):
    first, square = report.outcomes
    standing = bits("1111000000")
    longer = dataclasses.replace(
        first, name="pgd-9", standing=standing, last_iterate=bits("1111010100")
    )
    report.outcomes = [first, longer, square]
    text = page.write(report, "t")
    figures = text[text.index('class="figures"') : text.index("<h2>Attacks")]
    assert "<b>60.00 %</b>pgd-9, last iterate<br>" in figures and "pgd-3" not in figures


def test_the_names_of_the_classes_reach_every_picture(report, tmp_path, monkeypatch):
    names, asked = list("abcd"), []
    drawn, png = plots.grid, plots.grid(report)
    monkeypatch.setattr(plots, "grid", lambda *given: asked.append(given[1:]) or png)
    about = {"class_names": names}
    for kind in ("html", "plots", "tensorboard"):
        artefacts.write(report, [kind], tmp_path / "report.json", title="t", about=about)
        assert asked == [(names,)], kind
        asked.clear()
    assert drawn(report, names) != png  # which shows them


def test_model_info_says_what_report_and_run_know_and_leaves_the_rest_to_its_authors(report):
    about = {"model": "resnet18:width=16", "dataset": "cifar10"}
    of_run = {"name": "resnet18:width=16", "architecture": "resnet18:width=16"}
    of_report = {"eps": "8/255", "clean_acc": "80.00", "reported": "30.00", "unreliable": True,
                 "footnote": "10 images, sat_tf 0", "autoattack_acc": None}  # fmt: skip
    of_authors = {"link": "", "authors": "", "venue": "", "additional_data": False,
                  "number_forward_passes": 1}  # fmt: skip
    known = of_run | {"dataset": "cifar10"} | of_authors
    assert artefacts.model_info(report.to_dict(), about) == known | of_report
    nothing = dict.fromkeys(of_report) | {"footnote": "", "unreliable": False}
    assert artefacts.model_info(None, about) == known | nothing
    content = report.to_dict()
    told = artefacts.model_info(content, {})  # of no run
    assert (told["name"], told["architecture"], told["dataset"]) == ("n", "", None)
    content["checks"] = [{"passed": True}, {"passed": None}]
    assert artefacts.model_info(content, about)["unreliable"] is False


def test_facts_are_written_as_the_command_line_has_them_and_without_those_that_have_no_value():
    facts = {"a_b": 0, "none": None, "empty": "", "list": [1, "<"], "no_list": [],
             "of": {"x": 1.5, "y": None, "z": [], "w": [2, 3], "v": 0, "u": False}}  # fmt: skip
    cells = re.findall("<td>(.*?)</td>", page.facts_table(facts))
    told = {"a b": "0", "list": "1,&lt;", "of": "x 1.5, w 2,3, v 0, u False"}
    assert dict(zip(cells[::2], cells[1::2], strict=True)) == told
