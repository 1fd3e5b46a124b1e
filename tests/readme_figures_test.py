"""Every figure of README and docs/results.md stands in a file of docs/results, or is named here.

A figure of few digits may be found there by chance; one of four is not.
"""

import json
import math
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", "docs/results.md")
# What no run here gave: figures of the paper, and numbers that are no measurement.
NAMED = {
    "paper": ["33.0", "42.3", "68.8", "69.7", "+1.5", "+3.9"],
    "versions": ["3.10", "3.11", "3.13", "2.21", "2.21.0", "2.15", "3.15.1", "3.3.4", "1.20.1"],
    "settings": ["1.25", "95", "0.8"],
    "aims": ["1.2", "1.30", "1.05", "1.08", "1.55", "6.3"],
    "about": ["2.3", "8.5", "0.075"],
}
# A number with a point or thousands, or one in percent.
FIGURE = r"(?<![\w.,])[-+]?(?:\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)+|\d+(?= %))(?![\w])"
# Lists of hundreds of numbers would have any figure.
# Tables of programs, written as they were printed.
TABLES = ("table", "steps", "ratios", "memory")
LISTS = ("steps_curve", "images", "history")


def figures(text):
    """Returns the figures of a page, without code, links and what a study has drawn."""
    for drawn in (r"<!-- (\w[\w ]*): .*?<!-- end of \1 -->", "```.*?```", "`[^`]*`", "<[^>]*>"):
        text = re.sub(drawn, " ", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.findall(FIGURE, text)


def numbers(content, key=""):
    """Yields the numbers of a JSON object."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name not in LISTS:
                yield from numbers(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from numbers(value, key)
    elif isinstance(content, str) and key in TABLES:
        found = re.findall(r"\d[\d,]*(?:\.\d+)?", content)
        yield from (float(one.replace(",", "")) for one in found)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield content


def known():
    """Returns all numbers of docs/results, and fractions in percent as well."""
    found = set()
    for path in (ROOT / "docs/results").rglob("*.json"):
        for number in numbers(json.loads(path.read_text())):
            found |= {float(number), 100.0 * number}
    return found


def stands_in(figure, found):
    """Tells whether a number rounds to a figure as it is written; a sign may stand beside it."""
    value = abs(float(figure.replace(",", "")))
    half = 0.5 * 10.0 ** -len(figure.partition(".")[2])
    return any(math.isclose(abs(one), value, rel_tol=0, abs_tol=half + 1e-9) for one in found)


def drawn():
    """Returns the figures of the tables that studies have drawn, which another test redraws."""
    text = (ROOT / "docs/results.md").read_text()
    sections = re.findall(r"<!-- (study \w+): .*?-->(.*?)<!-- end of \1 -->", text, re.S)
    return {float(one) for _, section in sections for one in re.findall(r"\d+\.\d+", section)}


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_stands_in_a_file_of_results_or_is_named(page):
    named = {figure for group in NAMED.values() for figure in group}
    found = known() | drawn()
    text = (ROOT / page).read_text()
    lost = [one for one in figures(text) if one not in named and not stands_in(one, found)]
    assert not lost, f"{page}: in no file of docs/results: {', '.join(lost)}"


def test_no_name_is_left_over():
    there = {one for page in PAGES for one in figures((ROOT / page).read_text())}
    assert not {one for group in NAMED.values() for one in group} - there


def test_a_figure_is_told_from_what_is_none():
    text = "66.19 of 10,000, -0.3 % `7.7` [x](y/1.2) p < 0.001, 8 seeds, v2.3 and ```\n4.4\n``` 5 %"
    assert figures(text) == ["66.19", "10,000", "-0.3", "0.001", "5"]
    assert stands_in("66.19", {66.187}) and not stands_in("66.19", {66.18, 66.2})
    assert stands_in("10,000", {10_000}) and not stands_in("-0.3", {0.4})
