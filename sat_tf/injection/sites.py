"""Finds where a network applies its hidden activations.

A *site* is where a network applies an activation of the ReLU or SiLU family to hidden features: an
activation layer, a graph operation such as `keras.ops.relu`, or the `activation=` argument of a
convolution or dense layer. Gates and heads (sigmoid, hard sigmoid, tanh, softmax, linear) are no
sites. An activation that a layer applies inside itself cannot be replaced from outside: the layer
is refused by name, so that an injected network never keeps a kink unnoticed.
"""

from collections.abc import Iterator

import keras
from keras.src.models.functional import Functional  # Keras has no public name for the class.

from sat_tf.injection.concealed import refuse
from sat_tf.injection.kinds import fused_activation, own_activation


def hidden_activations(model: keras.Model) -> dict[str, str]:
    """Lists the sites of a network: `{"conv1_relu": "relu", ...}`.

    Args:
      model: a built functional or sequential model; models nested in it are searched too.

    Returns:
      The activation's name at each site in the order of the graph, by the name of the layer or
      operation; sites of a nested model are called `nested_name/layer_name`. Our own layers give
      their spec, such as "celu:alpha=1.6".

    Raises:
      ValueError: a part of the network that cannot be searched.
    """
    return dict(sites(model))


def sites(model: keras.Model) -> Iterator[tuple[str, str]]:
    """Yields what `hidden_activations` returns, in the order of the graph."""
    for operation in operations(model):
        if isinstance(operation, keras.Model):
            for name, activation in sites(operation):
                yield f"{operation.name}/{name}", activation
            continue
        activation = own_activation(operation) or fused_activation(operation)
        if activation:
            yield operation.name, activation
        else:
            refuse(operation)


def is_graph(model: keras.Model) -> bool:
    """Tells if a model is a graph of layers and nothing else: functional or sequential."""
    call = type(model).call
    sequential = isinstance(model, keras.Sequential) and call is keras.Sequential.call
    return sequential or (isinstance(model, Functional) and call is Functional.call)


def operations(model: keras.Model) -> list:
    """Lists the layers, models and graph operations that a model calls, without its inputs.

    Raises:
      ValueError: a model that is not built, or whose Python code hides what it calls.
    """
    if not is_graph(model):
        raise ValueError(
            f"model {model.name!r} is a {type(model).__name__}, whose graph cannot be seen; build "
            "it as a functional keras.Model(inputs, outputs), or hand the activation to its "
            "constructor"
        )
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(f"model {model.name!r} is not built; call build() or give it an Input")
        return model.layers
    return [o for o in model.operations if not isinstance(o, keras.layers.InputLayer)]
