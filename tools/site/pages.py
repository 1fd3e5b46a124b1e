"""Hooks of mkdocs.yml: pages that are made of other files, and links that leave docs/."""

import os
import pathlib
import posixpath
import re

import nbconvert
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent.parent
# Pages that lie elsewhere in the checkout.
ELSEWHERE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    **{
        f"zoo/{card.parent.name}.md": card.relative_to(ROOT).as_posix()
        for card in ROOT.glob("sat_tf/zoo/*/card.md")
    },
}
# What the page of a room tells: its door, and what else users call.
REFERENCE = {
    "activations": ["sat_tf.activations", "sat_tf.activations.drawing"],
    "attacks": ["sat_tf.attacks"],
    "callbacks": ["sat_tf.callbacks"],
    "data": ["sat_tf.data"],
    "evaluation": ["sat_tf.evaluate", "sat_tf.evaluation.options", "sat_tf.evaluation.report"],
    "export": ["export.saved_model"],
    "injection": ["sat_tf.injection"],
    "loading": ["sat_tf.loading"],
    "models": ["sat_tf.models"],
    "runs": ["sat_tf.runs"],
    "training": ["sat_tf.training"],
    "zoo": ["sat_tf.zoo"],
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|(!)\[([^\]]*)\]\(([^)\s]+)\)")
_ATTRIBUTE = re.compile(r'\b(src|srcset|href)="([^"]+)"')  # of pictures for light and dark
_CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)


def on_files(files, config):
    """Adds the pages that are not in docs/ as they stand."""

    def add(name, content):
        files.append(File.generated(config, name, content=content))

    for name, source in ELSEWHERE.items():
        add(name, (ROOT / source).read_text(encoding="utf-8"))
    for room, modules in REFERENCE.items():
        add(f"reference/{room}.md", "\n\n".join([f"# {room}", *(f"::: {m}" for m in modules)]))
    for path in (ROOT / "docs").glob("*.ipynb"):
        text, found = nbconvert.MarkdownExporter().from_filename(
            str(path), resources={"output_files_dir": f"{path.stem}_files"}
        )
        add(f"{path.stem}.md", re.sub(r"\x1b\[[0-9;]*m", "", text))
        for name, content in found["outputs"].items():
            add(pathlib.PurePath(name).as_posix(), content)
    return files


def on_page_markdown(markdown, page, config, files):
    """Points every link at the site's page of its target; what has none becomes plain text."""
    own = page.file.src_uri
    source = ELSEWHERE.get(own, f"docs/{own}")
    pages = {source: name for name, source in ELSEWHERE.items()}

    def target(link):
        path, mark, anchor = link.partition("#")
        if not path or re.match(r"[a-z]+:", link):
            return link
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        name = pages.get(path, path.removeprefix("docs/").replace(".ipynb", ".md"))
        room = re.match(r"(?:sat_tf/)?(\w+)/.*\.py$", path)
        if room and room[1] in REFERENCE:
            name = f"reference/{room[1]}.md"
        if files.get_file_from_path(name) is None:
            return None
        return os.path.relpath(name, posixpath.dirname(own) or ".") + mark + anchor

    def linked(found):
        text, link = (found[1], found[2]) if found[2] else (found[4], found[5])
        there = target(link)
        return text if there is None else f"{found[3] or ''}[{text}]({there})"

    def attribute(found):
        return f'{found[1]}="{target(found[2]) or found[2]}"'

    parts = _CODE.split(markdown)
    parts[::2] = [_ATTRIBUTE.sub(attribute, _LINK.sub(linked, part)) for part in parts[::2]]
    return "".join(parts)
