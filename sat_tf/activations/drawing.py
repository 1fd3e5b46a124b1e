"""Seeds for activations that draw random numbers, in steps of training and nowhere else.

What an activation draws must depend on the seed of the step (see `sat_tf.attacks.noise`), so that a
resumed run draws what the uninterrupted one would have; and an attack must meet a function, not a
draw of one. So the trainer hands the step's seed over while it computes the loss, and at no other
time is there a seed.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import tensorflow as tf

# The seed of the step and the count of what has drawn from it; one for each thread (replica).
_step: contextvars.ContextVar = contextvars.ContextVar("seed of a step", default=None)


@contextlib.contextmanager
def drawing(seed: tf.Tensor, start: int = 0) -> Iterator[None]:
    """Lets activations draw random numbers, each call of one from a seed of its own.

    Args:
      seed: of the step, int32 [2].
      start: the count to go on from.
    """
    token = _step.set((seed, [start]))
    try:
        yield
    finally:
        _step.reset(token)


def drawing_again() -> Callable[[], contextlib.AbstractContextManager]:
    """Returns what makes contexts in which all that is drawn from here on is drawn once more."""
    if (step := _step.get()) is None:
        return contextlib.nullcontext
    seed, (count,) = step
    return functools.partial(drawing, seed, count)


def next_seed() -> tf.Tensor | None:
    """Returns the seed of one call of an activation, int32 [2]; None outside `drawing`."""
    if (step := _step.get()) is None:
        return None
    seed, calls = step
    calls[0] -= 1  # downwards, as the attack of the same step folds in 0, 1, 2 and so on
    return tf.random.experimental.stateless_fold_in(seed, calls[0])
