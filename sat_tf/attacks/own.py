"""Attacks of one's own, as `module:function`: adaptive ones, which know a network's defence."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from sat_tf.attacks import losses, stepped
from sat_tf.attacks.pgd import PGD

_STEPPED = ("name", "norm", "epsilon", "num_steps", "takes_gradients", "start", "step")


def make(spec: str, *, epsilon: float, norm: str, num_classes: int) -> Any:
    """Makes the attack that a function returns for a ball.

    The function is called with `epsilon` in pixels, `norm` and `num_classes`, all by keyword. It
    returns a `stepped.SteppedAttack`, which is run as those of AutoAttack are; or any callable
    `(network, images, labels, seed) -> images`, which is called once for a batch, inside a
    `tf.function`, with a seed for each image, int32 [N, 2]. What an image becomes may depend on its
    own row alone, as the rows of a batch are whatever images still stand.

    Its attribute `source` tells its code: the spec and the SHA-256 of the files of the function and
    of what it returned, so that no evaluation takes up the verdicts of other code. What these files
    import is not looked at.

    Args:
      spec: "module:function".
      epsilon: radius in pixels.
      norm: "linf", "l2" or "l1".
      num_classes: of the network.

    Raises:
      ValueError: no such function, it fails, or what it returns is no attack of this ball.
    """
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        attack = function(epsilon=epsilon, norm=norm, num_classes=num_classes)
    except (Exception, SystemExit) as error:  # whatever the user's code meets
        brief = " ".join(str(error).split())[:300]
        raise ValueError(f"it cannot be made ({type(error).__name__}: {brief})") from error
    if hasattr(attack, "start") or hasattr(attack, "step") or isinstance(attack, PGD):
        _check(attack, epsilon, norm)
        found = attack
    elif callable(attack):
        found = OwnAttack(attack, name=function_name, epsilon=epsilon, norm=norm)
    else:
        raise ValueError(
            f"it returned {type(attack).__name__}; expected a stepped attack, or a callable "
            "(network, images, labels, seed) -> images"
        )
    returned = getattr(attack, "__module__", None) or module_name  # a built-in method has none
    vars(found)["source"] = f"{spec} {_sha256({module_name, returned})}"
    return found


class OwnAttack(stepped.Stepped):
    """A callable `(network, images, labels, seed) -> images` as an attack of one step.

    Counts as one evaluation of the network, however many the callable makes.

    Args:
      attack: the callable.
      name: what reports call it.
      epsilon: radius in pixels, which the callable keeps to and the evaluation checks.
      norm: of the ball.
    """

    num_steps = 1

    def __init__(self, attack: Callable, *, name: str, epsilon: float, norm: str):
        self._attack, self.name = attack, name
        self.epsilon, self.norm = stepped.check_epsilon(epsilon), norm

    def start(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, logits: tf.Tensor
    ) -> stepped.State:
        """Returns the state of images that took no step yet (see `SteppedAttack`)."""
        del logits
        return stepped.begin(images, labels, seeds)

    def step(self, network: stepped.Network, state: stepped.State) -> stepped.State:
        """Calls the attack on every image and looks whether the network is wrong.

        Raises:
          ValueError: what it returns has another shape than the images.
        """
        images, labels = state["images"], state["labels"]
        found = tf.convert_to_tensor(self._attack(network, images, labels, state["seeds"]))
        if not found.shape.is_compatible_with(images.shape):
            raise ValueError(
                f"attack {self.name!r} returned shape {found.shape} for images of shape "
                f"{images.shape}; return an image for each"
            )
        point = tf.ensure_shape(tf.stop_gradient(tf.cast(found, tf.float32)), images.shape)
        hit = losses.misclassified(network(point, training=False), labels)
        return stepped.advance(state, self.num_steps, point, hit, point)


def _sha256(modules):
    digest = hashlib.sha256()
    for name in sorted(modules):
        try:
            digest.update(inspect.getsource(sys.modules[name]).encode())
        except (OSError, TypeError, KeyError):  # it has no file, as of an interactive session
            digest.update(name.encode())
    return digest.hexdigest()


def _check(attack, epsilon, norm):
    """Refuses a stepped attack that lacks something, or of another ball than was asked for."""
    needed = ("norm", "epsilon") if isinstance(attack, PGD) else _STEPPED
    if missing := [name for name in needed if not hasattr(attack, name)]:
        raise ValueError(
            f"{type(attack).__name__} lacks {', '.join(missing)}, which a stepped attack has: "
            f"{', '.join(_STEPPED)}"
        )
    if (attack.epsilon, attack.norm) != (epsilon, norm):
        raise ValueError(
            f"it is of {attack.norm} epsilon {attack.epsilon:g} pixels where {norm} epsilon "
            f"{epsilon:g} was asked for; make it with the epsilon and norm that it is given"
        )
