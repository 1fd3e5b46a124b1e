"""The gradient-quality experiment: the plain function forward, another's derivative backward.

Two views of one network share its weights and differ in how gradients pass its activations.
"attacker only" is an attack on a view and a plain update, "update only" the reverse. Validation and
evaluation always attack the plain network.

Source: Xie et al., arXiv 2006.14536, section 3.2 (there ReLU forward and the derivative of
parametric softplus with alpha 10 backward: clean / PGD-200 68.8 / 33.0 without, 68.3 / 34.5 for the
attacker, 69.4 / 35.8 for the update, 68.9 / 36.9 for both).
"""

from collections.abc import Callable

import keras

from sat_tf import activations, injection


def backward_view(network: keras.Model, gradient: str) -> keras.Model:
    """Makes a view of a network whose activations pass gradients as those of another function.

    It computes what `network` computes, with the very same layers other than activations:
    training it, or its batch-norm averages, trains the network.

    Args:
      network: functional model whose hidden activations are one function, such as "relu".
      gradient: the function whose derivative is used, such as "parametric_softplus" or
        "parametric_softplus:alpha=5".

    Raises:
      ValueError: an unknown function; a network without hidden activations, with several, or with
        one that has trained parameters or is not of `activations.NAMES`.
    """
    own = set(injection.hidden_activations(network).values())
    if len(own) != 1:
        raise ValueError(
            f"the hidden activations of {network.name!r} are {', '.join(sorted(own)) or 'none'}; "
            "a view needs one function everywhere, such as --activation=relu"
        )
    (spec,) = own
    try:
        combined = activations.with_derivative(spec, gradient)
    except ValueError as error:
        raise ValueError(
            f"no view computes {spec!r} with the derivative of {gradient!r}: {error}"
        ) from error
    return injection.inject(network, combined, share_weights=True)


def on_view(view: keras.Model, function: Callable) -> Callable:
    """Makes an attack or an objective act on a view, whichever network it is called with."""

    def on_this_view(network, *arguments, **options):
        del network
        return function(view, *arguments, **options)

    return on_this_view
