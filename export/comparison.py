"""A server's logits beside those of the run that was exported."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from export import expectations, remote, signatures
from export.remote import pictures
from sat_tf import data, loading, zoo
from sat_tf.runs import workdir

_MOST_PIXELS = 2**31 - 1  # the server has judged the size, by its own version's limit


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was compared, and how far the two were from each other.

    Attributes:
      version: of the network on the server.
      signature: that was asked.
      images: how many of what, in words.
      difference: the largest of a logit; NaN where one was not finite.
      tolerance: what it may be, by the rule of `export.expectations`.
    """

    version: int
    signature: str
    images: str
    difference: float
    tolerance: float


def compare(
    server: remote.Server,
    run: pathlib.Path,
    paths: Sequence[str] = (),
    *,
    batch_size: int = 32,
    num_images: int = 64,
    resize: str | None = None,
    data_dir: str | None = None,
) -> Comparison:
    """Asks a server and a run's network about the same pictures.

    Args:
      server: of the exported network.
      run: its directory, or `zoo:NAME`; `network.keras` is asked here.
      paths: JPEG or PNG files, for the signature `encoded_images`. Without any, the first images
        of the run's test set go as pixels to `serving_default`.
      batch_size: images a request.
      num_images: of the test set.
      resize: one of `signatures.RESIZES`, as the version was exported; None as the run says.
      data_dir: as in `data.load`.

    Raises:
      ValueError: a run without a network or a data set; a picture that is refused; another number
        of classes.
      remote.Failed: the server fails.
    """
    run = pathlib.Path(zoo.located(str(run)))
    network = loading.load(str(run / "network.keras"))
    metrics = workdir.read_metrics(run)
    version, _ = server.signatures()
    if paths:
        asked, what = signatures.ENCODED, "pictures"
        resize = resize or metrics.get("eval_resize", "fit")
        resize = "fit" if resize == "whole" else resize
        answers = _to_files(server, paths, batch_size, network.input_shape[1:], resize)
    else:
        asked, what = signatures.FLOAT, f"images of {metrics.get('dataset')} test"
        images = _test_images(run, metrics, batch_size, num_images, data_dir)
        answers = ((one, server.predict(asked, {"pixels": one})["logits"]) for one in images)
    ours, theirs = [], []
    for pixels, logits in answers:
        ours.append(expectations.logits_of(network, pixels))
        theirs.append(np.asarray(logits, np.float32))
        if theirs[-1].shape != ours[-1].shape:
            raise ValueError(
                f"the server answers with logits {theirs[-1].shape}, {run} with {ours[-1].shape}"
            )
    difference = np.abs(np.concatenate(ours) - np.concatenate(theirs)).max()
    return Comparison(
        version,
        asked,
        f"{sum(map(len, ours))} {what}",
        float(difference),
        expectations.tolerance(network, ours),
    )


def _to_files(server, paths, batch_size, image_shape, resize):
    """Yields the pixels of one file after the other, and the server's logits for them."""
    for path, answer in pictures.classify(server, signatures.ENCODED, paths, batch_size):
        if isinstance(answer, ValueError):
            raise ValueError(f"{path}: {answer}")
        encoded = tf.constant(pictures.read(path))
        try:
            pixels = signatures.decode(encoded, image_shape, resize, _MOST_PIXELS)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"{path} is answered, but cannot be read here: {error.message}"
            ) from error
        yield pixels[None], [answer["logits"]]


def _test_images(run, metrics, batch_size, num_images, data_dir) -> Iterator[np.ndarray]:
    """Yields the first images of a run's test set in batches, float32 pixels [N, H, W, C]."""
    if "dataset" not in metrics:
        raise ValueError(f"{run} does not say its data set; name pictures to be compared on")
    dataset = data.load(
        metrics["dataset"],
        "test",
        batch_size=min(batch_size, num_images),
        image_size=metrics.get("image_size"),
        eval_resize=metrics.get("eval_resize"),
        data_dir=data_dir,
    )
    for images, _ in dataset.unbatch().take(num_images).batch(batch_size):
        yield images.numpy()
