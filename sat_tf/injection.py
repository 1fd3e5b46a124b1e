"""Puts one activation into every hidden site of an existing network."""

import functools
from collections.abc import Callable

import keras

from sat_tf import activations
from sat_tf.site_kinds import fused_activation, own_activation
from sat_tf.sites import hidden_activations, operations, sites

__all__ = ["hidden_activations", "inject"]

Activation = str | Callable[[str], keras.layers.Layer]


def inject(
    model: keras.Model, activation: Activation, *, share_weights: bool = False
) -> keras.Model:
    """Makes the same network with another activation at every hidden site.

    Names and weights stay. The site of a layer such as `Conv2D(name="conv1", activation="relu")`
    becomes a layer of its own after it, "conv1_relu".

    The one pair of `pssilu` is shared by all sites, in nested models too, and so is it in a file
    (`keras.models.clone_model` gives every nested model a pair). A sequential model then becomes a
    functional one; where a part of the network is frozen, so is the pair.

    Args:
      model: a built functional or sequential model; models nested in it are rebuilt too.
      activation: a spec for `sat_tf.activations.make`, such as "swish", or a callable that makes a
        new layer from the site's name.
      share_weights: builds a second view of the same network instead of a copy: its layers other
        than activations are the very layers of `model`, so that training one trains both.

    Returns:
      A new model. `model` is left as it was.

    Raises:
      ValueError: an unknown spec; a part of the network that cannot be searched; with
        `share_weights`, a layer that shares its kernel but not its `activation=`.
    """
    make = activation if callable(activation) else activations.factory(activation)
    for _ in sites(model):
        pass
    rebuilding = _Rebuilding(make, share_weights)
    injected = rebuilding.model(model)
    if not share_weights:
        rebuilding.copy_weights()
    return injected


class _Scope:
    """One of the models being rebuilt: names taken in it, and the activations called in it."""

    def __init__(self, model: keras.Model):
        self.taken = {operation.name for operation in operations(model)}
        self.activations = {}  # id(made activation) -> the one to call here

    def free_name(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


class _Rebuilding:
    """Rebuilds models with new activations; a layer used twice is rebuilt once."""

    def __init__(self, make: Callable[[str], keras.layers.Layer], share_weights: bool):
        self.make = make
        self.share = share_weights
        self.rebuilt = {}  # id(old operation) -> (old, new): holding the old keeps its id taken
        self.following = {}  # id(new host) -> the activation that follows it
        self.made = {}  # id(made activation) -> the same

    def model(self, model: keras.Model) -> keras.Model:
        scope = _Scope(model)
        if isinstance(model, keras.Sequential):
            new = self._sequential(model, scope)
        else:
            new = keras.models.clone_model(
                model,
                clone_function=lambda operation: self._operation(operation, scope),
                call_function=self._call,
            )
        if not model.trainable:
            new.trainable = False
        return new

    def _sequential(self, model: keras.Sequential, scope: _Scope) -> keras.Model:
        (x,) = model.inputs
        x = keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)
        layers = [x]
        for layer in model.layers:
            new = self._operation(layer, scope)
            layers += [new, *filter(None, [self.following.get(id(new))])]
        if len({id(layer) for layer in layers}) == len(layers):
            return keras.Sequential(layers, name=model.name)
        # The file of a Sequential holds each layer once, so a shared activation would be lost.
        return keras.Model(x, functools.reduce(lambda y, layer: layer(y), layers), name=model.name)

    def _call(self, operation, *args, **kwargs):
        outputs = operation(*args, **kwargs)
        following = self.following.get(id(operation))
        return outputs if following is None else following(outputs)

    def _operation(self, operation, scope: _Scope):
        if id(operation) not in self.rebuilt:
            self.rebuilt[id(operation)] = operation, self._new(operation, scope)
        return self.rebuilt[id(operation)][1]

    def _new(self, operation, scope: _Scope):
        if isinstance(operation, keras.Model):
            has_sites = any(True for _ in sites(operation))
            return operation if self.share and not has_sites else self.model(operation)
        if own_activation(operation):
            return self._activation(operation, operation.name, scope)
        fused = fused_activation(operation)
        if self.share:
            if fused:
                raise ValueError(
                    f"layer {operation.name!r} cannot share its kernel without its "
                    f"activation={fused!r}; inject into a copy first: inject(model, {fused!r})"
                )
            return operation
        config = operation.get_config()
        if not fused:
            return type(operation).from_config(config)
        new = type(operation).from_config({**config, "activation": "linear"})
        name = scope.free_name(f"{operation.name}_{fused.partition(':')[0]}")
        self.following[id(new)] = self._activation(operation, name, scope)
        return new

    def _activation(self, operation, name: str, scope: _Scope) -> keras.layers.Layer:
        made = self.make(name)
        if id(made) not in scope.activations:
            twin = id(made) in self.made and isinstance(made, activations.PSSiLU)
            scope.activations[id(made)] = made.twin() if twin else made
            self.made[id(made)] = made
        layer = scope.activations[id(made)]
        if not layer.built:
            policy = getattr(operation, "dtype_policy", None)
            layer.dtype_policy = policy or keras.DTypePolicy(operation.output.dtype)
        return layer

    def copy_weights(self) -> None:
        for old, new in self.rebuilt.values():
            whole = isinstance(old, keras.layers.Layer) and not isinstance(old, keras.Model)
            if whole and not own_activation(old):
                new.set_weights(old.get_weights())
