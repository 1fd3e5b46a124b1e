"""Asks a server of an exported network what pictures show.

    python -m export.client --server=localhost:8500 cat.jpg dog.png
    python -m export.client --server=http://localhost:8501 --model=pets --top=5 pictures/*.jpg
    python -m export.client --status
    python -m export.client --compare=runs/digits

A picture that cannot be read or is refused has a line on stderr, and the others their answers; the
exit status is 2 then, as for every other error. With --compare it is 1 where the answers differ.
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from export import remote
from export.remote import pictures
from flags import client as own_flags
from sat_tf import cli, quiet


def predict(server: remote.Server, paths: Sequence[str], given: flags.FlagValues) -> int:
    """Prints what pictures show and says what went wrong; returns the exit status."""
    labels = None if given.labels is None else _labels(given.labels)
    found, stopped = [], None
    try:
        for one in pictures.classify(server, given.signature, paths, given.batch_size):
            found.append(one)
    except remote.Failed as failed:
        if not found:
            raise
        stopped = failed
    names = _names([answer for _, answer in found if isinstance(answer, dict)], labels)
    rows = [
        (path, ranked(answer, names, given.top) if isinstance(answer, dict) else str(answer))
        for path, answer in found
    ]
    print(_as_json(rows) if given.json else table(rows), flush=True)
    refused = [(path, why) for path, why in rows if isinstance(why, str)]
    for path, why in refused:
        cli.say(f"{path}: {why}")
    if stopped is not None:
        cli.say(f"{stopped}; {len(paths) - len(found)} of {len(paths)} pictures have no answer")
    return 2 if refused or stopped else 0


def _labels(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels={path} cannot be read: {error}") from error


def _names(answers, labels):
    """Returns the names of classes, of a file of all or as far as the answers tell them."""
    if labels is None:
        return {answer["classes"]: answer["labels"] for answer in answers if "labels" in answer}
    for answer in answers:
        if len(answer["probabilities"]) != len(labels):
            raise ValueError(
                f"--labels names {len(labels)} classes, the network has "
                f"{len(answer['probabilities'])}"
            )
    return dict(enumerate(labels))


def ranked(
    answer: Mapping[str, Any], names: Mapping[int, str], top: int
) -> list[tuple[int, str, float]]:
    """Returns the most probable classes of one picture: number, name and probability.

    Args:
      answer: the picture's row of every output.
      names: of the classes, as far as they are known.
      top: how many, at most.
    """
    chances = answer["probabilities"]
    order = sorted(range(len(chances)), key=lambda index: -chances[index])
    return [(index, names.get(index, f"class {index}"), chances[index]) for index in order[:top]]


def table(rows: Sequence[tuple[str, list[tuple[int, str, float]] | str]]) -> str:
    """Writes a line for each picture: its classes, each with its probability in percent."""
    cells = [
        [path, *(f"{name}  {100 * chance:6.2f}" for _, name, chance in classes)]
        for path, classes in rows
        if not isinstance(classes, str)
    ]
    if not cells:
        return "no picture has an answer"
    head = ["picture", *(["class       %"] * (len(cells[0]) - 1))]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "   ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in [head, *cells]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _as_json(rows):
    found = []
    for path, classes in rows:
        if isinstance(classes, str):
            found.append({"picture": path, "error": classes})
            continue
        keys = ("class", "label", "probability")
        found.append(
            {"picture": path, "classes": [dict(zip(keys, one, strict=True)) for one in classes]}
        )
    return json.dumps(found, indent=2, ensure_ascii=False)


def status(server: remote.Server, given: flags.FlagValues) -> int:
    """Prints the versions on the server and what can be asked of the one that would answer."""
    versions = sorted(server.versions(), key=lambda one: one.number)
    available = any(one.state == "AVAILABLE" for one in versions)
    number, signatures = server.signatures() if available else (None, {})
    if given.json:
        print(_status_as_json(versions, number, signatures), flush=True)
    else:
        for one in versions:
            print(f"version {one.number}  {one.state}{one.error and f'  {one.error}'}")
        for name, signature in signatures.items():
            print(f"{name} of version {number}")
            print(f"  takes {remote.listed(signature.inputs)}")
            print(f"  gives {remote.listed(signature.outputs)}", flush=True)
    if not available:
        cli.say(f"no version of {given.model} is available at {given.server}")
    return 0 if available else 2


def _status_as_json(versions, number, signatures):
    def texts(tensors):
        return {name: str(tensor) for name, tensor in tensors.items()}

    about = {
        "versions": [vars(one) for one in versions],
        "answering": number,
        "signatures": {
            name: {"inputs": texts(one.inputs), "outputs": texts(one.outputs)}
            for name, one in signatures.items()
        },
    }
    return json.dumps(about, indent=2, ensure_ascii=False)


def compare(server: remote.Server, paths: Sequence[str], given: flags.FlagValues) -> int:
    """Prints how far the server's logits are from a run's; returns the exit status."""
    from export import comparison

    found = comparison.compare(
        server,
        pathlib.Path(given.compare),
        paths,
        batch_size=given.batch_size,
        num_images=given.num_images,
        resize=given.resize,
        data_dir=given.data_dir,
    )
    who = f"{given.model} version {found.version} at {given.server}"
    what = (
        f"{given.compare} does: the largest difference of a logit on {found.images} is "
        f"{found.difference:.3g}, at most {found.tolerance:.3g} may be ({found.signature})"
    )
    if found.difference <= found.tolerance:  # so written that NaN is none
        print(f"{who} answers as {what}")
        return 0
    cli.say(f"{who} does not answer as {what}")
    return 1


def _import_comparison():
    try:
        with quiet.waiting("starting TensorFlow"):
            quiet.import_tensorflow()
            from export import comparison  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--compare needs the project's packages ({error}): pip install -r requirements.txt"
        ) from error


def main(paths: list[str]) -> None:
    """Asks what the flags say about the pictures that stand beside them."""
    given = flags.FLAGS
    if given.status and (paths or given.compare):
        raise ValueError("--status asks about no pictures; leave them and --compare out")
    if not (paths or given.status or given.compare):
        raise ValueError("no pictures are given; name files, or give --status or --compare=RUN")
    if given.compare:
        _import_comparison()
    model = remote.Model(given.model, given.model_version, given.version_label)
    server = remote.connect(given.server, model, given.timeout, given.retries)
    with contextlib.closing(server):
        try:
            if given.status:
                code = status(server, given)
            else:
                code = (compare if given.compare else predict)(server, paths, given)
        except remote.Failed as failed:
            if failed.code != "NOT_FOUND":
                raise
            raise ValueError(f"{failed}; --model={given.model} was asked for") from failed
    sys.exit(code)


def command() -> None:
    """Runs the program with the flags of the command line."""
    cli.run(main, own_flags, operands=True)


if __name__ == "__main__":
    command()
