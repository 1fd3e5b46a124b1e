"""Every link of the documents leads somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "sat_tf/zoo/*/*.md")
    for path in ROOT.glob(pattern)
)  # fmt: skip


def prose(path):
    """The text without what stands in blocks and spans of code, where brackets are no links."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", lambda span: "x" * len(span[0]), text)


def links(path):
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))


def anchors(path):
    """The names that headings get: small letters and digits, a dash for each space."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def dead(path):
    """The links of a page that lead nowhere."""
    for link in links(path):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or anchor and anchor not in anchors(target):
            yield link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_and_anchor_is_there(path):
    assert list(dead(path)) == []


def test_a_dead_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `head`, with 2 words\n[a](page.md) [b](#a-head-with-2-words) [c](https://x.y)\n"
        "`[d](nowhere)`\n```\n[e](nowhere)\n```\n[f](away.md) [g](#no-head) [h](page.md#no)\n"
    )
    assert list(dead(page)) == ["away.md", "#no-head", "page.md#no"]
    assert sum(len(links(page)) for page in PAGES) > 60
