"""The tables of a study, as Markdown, and their place in a page between marks.

<!-- study small: drawn by python -m benchmarks.studies.study --plan=small --redraw -->
<!-- end of study small -->
"""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from benchmarks.studies import record, statistics
from benchmarks.studies.plan import Plan, Row
from benchmarks.studies.record import Records
from sat_tf.runs import atomic

NONE = "-"


class Measure(NamedTuple):
    """A column of figures: an evaluation, and which of its verdicts."""

    title: str
    evaluation: str
    kind: str  # "clean" or "robust"

    def accuracies(self, records: Records, row: str) -> dict[int, float]:
        """Returns the percentage of each seed that was evaluated."""
        read = {"clean": record.clean, "robust": record.robust}[self.kind]
        found = {seed: run.report(self.evaluation) for seed, run in records[row].items()}
        return {seed: 100 * read(report) for seed, report in found.items() if report is not None}


def measures(plan: Plan, records: Records) -> list[Measure]:
    """Returns clean accuracy and the attacks that were run, each with its number of images."""
    found = []
    for one in plan.columns:
        reports = [run.report(one.name) for of_row in records.values() for run in of_row.values()]
        numbers = {report["num_images"] for report in reports if report is not None}
        if len(numbers) > 1:
            raise ValueError(f"{one.name} counts {sorted(numbers)} images; compare equal ones")
        if not numbers:
            continue
        images = f", {numbers.pop():,} images"
        if not found:
            found.append(Measure(f"clean{images}", one.name, "clean"))
        found.append(Measure(f"{one.title}{images}", one.name, "robust"))
    return found


def section(plan: Plan, records: Records) -> str:
    """Writes what a study found: accuracies, gains, a sentence for each row, what is missing."""
    accuracies, gains, sentences, missing = _parts(plan, records)
    return "\n\n".join(part for part in (accuracies, gains, sentences, missing) if part)


def summary(plan: Plan, records: Records) -> str:
    """Writes accuracies and a sentence for each row, for a page that has little room."""
    accuracies, _, sentences, _ = _parts(plan, records)
    return "\n\n".join(part for part in (accuracies, sentences) if part)


def _parts(plan, records):
    columns = measures(plan, records)
    first = plan.columns[0].name
    begun = {row: [run for run in records[row].values() if run.report(first)] for row in plan.rows}
    rows = [row for row in plan.rows.values() if begun[row.name]]
    timed = any(run.cpu_seconds is not None for runs in begun.values() for run in runs)
    compared = [_compared(records, row, columns) for row in rows if row.against != row.name]
    return [
        _table(
            ["row", "seeds", *(one.title for one in columns), *(["processor minutes"] * timed)],
            [_accuracies(records, row, columns, begun[row.name], timed) for row in rows],
        ),
        _table(
            ["gain of", "over", "in", "seeds", "points", "95 % over seeds",
             "95 % over seeds and images", "p"],
            [line for _, lines in compared for line in lines],
        ),
        "\n".join(f"- {sentence}" for sentence, _ in compared),
        _missing(plan, begun, columns),
    ]  # fmt: skip


def write(pages: Iterable[str], plan: Plan, records: Records) -> list[str]:
    """Writes a study's section and its summary where pages have a place for them.

    Returns:
      The pages that have a place for neither.

    Raises:
      ValueError: a page has a mark without its end.
    """
    texts = {
        f"study {plan.name}": section(plan, records),
        f"summary of study {plan.name}": summary(plan, records),
    }
    return [
        name
        for name in pages
        if not any([put(pathlib.Path(name), mark, text) for mark, text in texts.items()])
    ]


def put(path: pathlib.Path, name: str, text: str) -> bool:
    """Writes a text into a page, in place of what stands between its marks.

    Returns:
      Whether the page has such marks.

    Raises:
      ValueError: it has the first and not the second.
    """
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, start, rest = old.partition(f"<!-- {name}: ")
    line, newline, rest = rest.partition("\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not start:
        return False
    if not end:
        raise ValueError(f"{path} has no line <!-- end of {name} -->; add it where it ends")
    atomic.write_text(path, f"{before}{start}{line}{newline}\n{text}\n\n{end}{after}")
    return True


def _missing(plan, begun, columns):
    """Writes which seeds, rows and evaluations of a plan were not run."""
    left = {
        row: f"{row} ({len(runs)} of {len(plan.rows[row].seeds)} seeds)"
        for row, runs in begun.items()
        if len(runs) < len(plan.rows[row].seeds)
    }
    run = {column.evaluation for column in columns}
    said = {
        "Not run to the end": [text for row, text in left.items() if begun[row]],
        "Not run": [text for row, text in left.items() if not begun[row]],
        "Evaluations not run": [one.title for one in plan.columns if one.name not in run],
    }
    sentences = [f"{head}: {', '.join(names)}." for head, names in said.items() if names]
    return " ".join(sentences) or "All rows were run with all seeds."


def _accuracies(
    records: Records, row: Row, columns: list[Measure], runs: list, timed: bool
) -> list[str]:
    cells = [row.name, f"{len(runs)} of {len(row.seeds)}"]
    for column in columns:
        values = list(column.accuracies(records, row.name).values())
        fewer = f" ({len(values)})" if 0 < len(values) < len(runs) else ""
        cells.append(f"{_spread(values)}{fewer}")
    times = [run.cpu_seconds / 60 for run in runs if run.cpu_seconds is not None]
    return [*cells, *([f"{np.mean(times):.1f}" if times else NONE] if timed else [])]


def _compared(records, row, columns):
    """Returns a sentence on the first attack, and a line of the table for each column."""
    lines, sentence = [], f"{row.name} over {row.against}: no seed that both have."
    for column in columns:
        gain, test = gains(records, row, column)
        if gain is None:
            continue
        seeds = column.accuracies(records, row.name).keys() & column.accuracies(
            records, row.against
        )
        interval = _interval(gain.interval)
        image = _interval(test.interval) if test else NONE
        points = f"{gain.mean:+.2f}" + (f" ± {gain.deviation:.2f}" if gain.interval else "")
        p_value = _p_value(test) if test else NONE
        lines.append(
            [row.name, row.against, column.title, str(len(seeds)), points, interval, image, p_value]
        )
        if column is columns[1]:
            sentence = f"{row.name} over {row.against}, {column.title}: {points} points: "
            sentence += _verdict(gain, test, len(seeds))
    return sentence, lines


def gains(
    records: Records, row: Row, column: Measure
) -> tuple[statistics.Gain | None, statistics.Test | None]:
    """Computes what a row has over the one that it is compared with, in percentage points.

    Returns:
      The gain over the seeds that both have, None without one; the test over seeds and images,
      None where a run kept no verdicts.

    Raises:
      ValueError: two runs were evaluated on different images.
    """
    ours, theirs = (column.accuracies(records, name) for name in (row.name, row.against))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None, None
    gain = statistics.over_seeds(np.array([ours[seed] - theirs[seed] for seed in seeds]))
    reports = [
        [records[name][seed].report(column.evaluation) for seed in seeds]
        for name in (row.name, row.against)
    ]
    if len({report["data"]["images_sha256"] for side in reports for report in side}) > 1:
        raise ValueError(
            f"{row.name} and {row.against} were evaluated on different images by "
            f"{column.evaluation}; a gain needs the same"
        )
    sides = [[record.verdicts(report, column.kind) for report in side] for side in reports]
    if any(one is None for side in sides for one in side):
        return gain, None
    right, wrong = (np.array(side, np.int8) for side in sides)
    test = statistics.over_seeds_and_images(right - wrong)
    low, high = test.interval
    return gain, statistics.Test((100 * low, 100 * high), test.p_value)


def _verdict(gain, test, num_seeds):
    beside = f"; over the images of this seed alone, p {_p_value(test)}" if test else ""
    if gain.interval is None:
        return f"**open**, as one seed says nothing of others{beside}."
    intervals = [gain.interval, *([test.interval] if test else [])]
    of_seeds = f"95 % over {num_seeds} seeds: {_interval(gain.interval)}"
    if all(low > 0 for low, _ in intervals):
        return f"**more** ({of_seeds})."
    if all(high < 0 for _, high in intervals):
        return f"**less** ({of_seeds})."
    return f"**no difference shown** ({of_seeds})."


def _table(head, rows):
    if not rows:
        return ""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def _spread(values):
    if not values:
        return NONE
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def _interval(interval):
    return NONE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def _p_value(test):
    return "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
