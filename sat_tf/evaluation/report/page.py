"""The report as one HTML file that needs nothing else: no script, no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from sat_tf.evaluation.report import UNIT, Report, plots, tables
from sat_tf.evaluation.report.statistics import percent, span

_STYLE = """
:root { color-scheme: light dark; --ink: #202124; --soft: #5f6368; --line: #dadce0;
  --paper: #fff; --good: #137333; --bad: #c5221f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa0a6;
  --line: #3c4043; --paper: #202124; --good: #81c995; --bad: #f28b82; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0 } h2 { font-size: 1.05rem; margin-top: 2rem }
.soft { color: var(--soft) } .wide { overflow-x: auto }
.figures { display: flex; flex-wrap: wrap; gap: 2.5rem; margin: 1.5rem 0 }
.figures b { display: block; font-size: 2rem; line-height: 1.2; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top }
th:first-child, td:first-child, .text td { text-align: left }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
.passed { color: var(--good) } .failed { color: var(--bad); font-weight: 600 }
.not-run { color: var(--soft) }
td { white-space: nowrap } .text td:nth-child(3), .text td:last-child { white-space: normal }
"""
_NOTHING = (None, "", [], {})
_KINDS = {True: "passed", False: "failed", None: "not run"}


def write(report: Report, title: str, class_names: Sequence[str] | None = None) -> str:
    """Returns the page.

    Args:
      report: what to show.
      title: its heading, plain text.
      class_names: names of the classes; None writes numbers.
    """
    drawn = plots.draw_all(report, class_names)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="soft">{len(report.labels)} images, every one counted; lengths in {UNIT}; '
        f"seed {report.facts.get('seed')}</div>",
        _figures(report),
        "<h2>Attacks</h2>",
        _attacks(report),
    ]
    if report.curve:
        parts += ["<h2>Accuracy over epsilon</h2>", image(drawn["curve"], "accuracy over epsilon")]
    if report.landscape is not None:
        heading = f"The loss around image {report.landscape.index}"
        parts += [f"<h2>{heading}</h2>", image(drawn["landscape"], heading)]
    parts += [
        "<h2>What stands after so many evaluations</h2>",
        image(drawn["steps"], "accuracy over evaluations"),
        "<h2>Class by class</h2>",
        _classes(report, class_names),
        "<h2>Checks</h2>",
        _checks(report),
        "<h2>The first images, as the attacks left them</h2>",
        image(drawn["pictures"], "clean, perturbation and adversarial images"),
        "<h2>Facts</h2>",
        facts_table(report.facts),
    ]
    return document(title, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """Returns a page of these parts in HTML, without the head that all pages share."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width">'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _figures(report):
    pairs = [("clean accuracy", report.clean), ("stands after all attacks", report.standing)]
    last = [one for one in report.outcomes if one.last_iterate is not None]
    if last:
        pairs.insert(1, (f"{last[-1].name}, last iterate", last[-1].last_iterate))
    if report.top5:
        names = ("clean, among the first five", "attacked, among the first five")
        pairs += zip(names, report.top5, strict=True)
    return figures([(name, f"{percent(one)} %", f"{span(one)} %") for name, one in pairs])


def figures(entries: Sequence[tuple[str, str, str]]) -> str:
    """Returns large figures in HTML: what each is, the figure, and what is said below."""
    cells = [
        f"<div><b>{html.escape(figure)}</b>{html.escape(name)}<br>"
        f'<span class="soft">{html.escape(below)}</span></div>'
        for name, figure, below in entries
    ]
    return f'<div class="figures">{"".join(cells)}</div>'


def _attacks(report):
    head = (
        "",
        "last iterate",
        "standing",
        "95 % interval",
        "attacked",
        "largest distance",
        "seconds",
        *(f"evaluations {name}" for name in tables.COST),
    )
    blank = ("",) * (3 + len(tables.COST))
    rows = [("clean", "", percent(report.clean), span(report.clean), *blank)]
    for one in report.outcomes:
        rows.append(
            (
                one.name,
                "" if one.last_iterate is None else percent(one.last_iterate),
                percent(one.standing),
                span(one.standing),
                f"{one.attacked.sum():,}",
                f"{one.distance.max(initial=0.0):.4g}",
                f"{one.seconds:.1f}",
                *tables.cost(one),
            )
        )
    return table(rows, head)


def _classes(report, names):
    rows = []
    for row in report.per_class():
        name = str(row["label"]) if names is None else names[row["label"]]
        accuracies = (f"{100 * row[f'{kind}_accuracy']:.2f}" for kind in ("clean", "adversarial"))
        rows.append((name, f"{row['num_images']:,}", *accuracies))
    return table(rows, ("class", "images", "clean", "stands after all attacks"))


def _checks(report):
    rows = []
    for check in report.checks:
        kind = _KINDS[check["passed"]]
        rows.append((check["name"], kind, check["found"], check["consequence"]))
    cells = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="{kind.replace(" ", "-")}">{kind}</td>'
        f"<td>{html.escape(found)}</td><td>{html.escape(consequence)}</td></tr>"
        for name, kind, found, consequence in rows
    )
    return f'<div class="wide"><table class="text">{cells}</table></div>'


def facts_table(facts: Mapping[str, Any]) -> str:
    """Returns names and values in HTML, two columns; what has no value is left out."""
    rows = []
    for name, value in facts.items():
        if isinstance(value, dict):
            parts = (f"{key} {_text(one)}" for key, one in value.items() if one not in _NOTHING)
            value = ", ".join(parts)
        if value not in _NOTHING:
            rows.append((name.replace("_", " "), _text(value)))
    cells = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f'<div class="wide"><table class="text">{cells}</table></div>'


def _text(value):
    """Writes a list as the command line has it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Returns rows of plain text as a table in HTML."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def image(png: bytes, description: str) -> str:
    """Returns a PNG inside the page."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'
