"""The card of a network of the zoo: what it is, how it came to be, what it is worth."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

# Where data come from and what their licence is, by the name of the set.
DATA = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images); "
    "its authors name no licence and ask for this citation",
    "digits": "scikit-learn's `load_digits`, from Optical Recognition of Handwritten Digits "
    "(Alpaydin and Kaynak 1998) of the UCI repository, which gives it under CC BY 4.0",
}
_WORDS = """\
Accuracies in percent. "Last iterate" is the paper's figure; "standing" counts an image that no
point of this attack, nor of those above it in the same evaluation, has broken."""
_USE = """\
```
python -m sat_tf.evaluate --network=zoo:{name}
python -m export.saved_model --network=zoo:{name} --directory=serving/{name}
```

```python
from sat_tf import loading

network = loading.load("zoo:{name}")  # pixels [N, {image_size}, {image_size}, channels] to logits
```
"""
_LIMITS = """\
- Robust means: against perturbations of {norm} norm at most {epsilon:g}, in pixels of 255.
  Nothing is said of larger ones, other norms, corruptions, patches or pictures of another kind.
- Each figure is an upper bound of what stands: an attack that is not in the table may break more.
- It knows its {num_classes} classes and answers with one of them, whatever the picture shows.
- One training with one seed: another ends some tenths of a point, or some points, away.
- It is there for learning, tests and comparisons. Decide nothing about people with it.
"""


def card(name: str, metrics: Mapping[str, Any], digest: str) -> str:
    """Writes the card, Markdown, from nothing but its arguments.

    Args:
      name: of the network.
      metrics: its `metrics.json`, with "flags" and "evaluations" as `python -m sat_tf.zoo` adds
        them.
      digest: SHA-256 of its file.
    """
    versions, best = metrics["versions"], metrics["best"]
    examples = ", ".join(f"{count:,} {part}" for part, count in metrics["num_examples"].items())
    facts = {
        "network": f"{metrics['model']}, {metrics['num_parameters']:,} weights, activation "
        f"{metrics['activation']}, {metrics['image_size']} x {metrics['image_size']} pixels",
        "classes": ", ".join(metrics["class_names"]),
        "data": f"{metrics['dataset']}: {examples} images. {DATA.get(metrics['dataset'], '')}",
        "trained against": f"{metrics['norm']} epsilon {metrics['epsilon']:g}, in pixels of 255",
        "kept": f"epoch {best['epoch']} of {len(metrics['history'])}, the best of the robust "
        f"validation accuracy ({100 * best['val_adversarial_accuracy']:.2f} %)",
        "made by": f"sat_tf {versions['sat_tf']}, commit {metrics['commit']}, TensorFlow "
        f"{versions['tensorflow']}, Keras {versions['keras']}, {metrics['machine']}, seed "
        f"{metrics['seed']}",
        "licence": "of the weights: Apache-2.0, as the project; of the data: see above",
        "SHA-256": f"`{digest}`",
    }
    flags = " ".join(metrics["flags"])
    command = textwrap.wrap(
        f"python -m sat_tf.train {flags}", 96, break_long_words=False, break_on_hyphens=False
    )
    parts = [
        f"# {name}",
        "A robust image classifier: float32 pixels in [0, 255] in, logits out.",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {facts[key]} |" for key in facts)]),
        "## Figures",
        "\n".join(_figures(metrics["evaluations"])),
        _WORDS,
        "## Use",
        _USE.format(name=name, **metrics).rstrip(),
        "## Training",
        "All flags that decide a weight; a processor that rounds otherwise ends some tenths of a "
        "point away.",
        "```\n" + " \\\n    ".join(command) + "\n```",
        "## Limits",
        _LIMITS.format(**metrics),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _figures(evaluations) -> Iterator[str]:
    yield "| data | images | seed | attack | last iterate | standing | 95 % interval |"
    yield "|---|---|---|---|---|---|---|"
    for one in evaluations:
        start = f"| {one['dataset']} {one['split']} | {one['num_images']:,} | {one['seed']} |"
        yield f"{start} none | | {_accuracy(one, 'clean_accuracy')} |"
        for attack in one["attacks"]:
            last = attack.get("adversarial_accuracy_last_iterate")
            yield (
                f"{start} {attack['name']}{_how(attack['settings'])} | "
                f"{'' if last is None else f'{100 * last:.2f}'} | "
                f"{_accuracy(attack, 'adversarial_accuracy')} |"
            )


def _accuracy(of, key):
    low, high = of[f"{key}_interval_95"]
    return f"{100 * of[key]:.2f} | {100 * low:.1f} to {100 * high:.1f}"


def _how(settings):
    """Writes what of an attack's settings decides its figure beside its name."""
    told = {"epsilon": "epsilon", "step_size": "step size", "restarts": "restarts"}
    known = [f"{word} {settings[key]:g}" for key, word in told.items() if key in settings]
    return f" ({', '.join(known)})" if known else ""
