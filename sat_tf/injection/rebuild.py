"""Rebuilds an existing network: with one activation at every hidden site, or as it is."""

import functools
from collections.abc import Callable

import keras

from sat_tf import activations
from sat_tf.injection.kinds import fused_activation, own_activation
from sat_tf.injection.layer_state import copy_state
from sat_tf.injection.sites import is_graph, operations, sites
from sat_tf.models.batch_norm import BatchNormalization

Activation = str | Callable[[str], keras.layers.Layer]


def inject(
    model: keras.Model, activation: Activation, *, share_weights: bool = False
) -> keras.Model:
    """Makes the same network with another activation at every hidden site.

    Names and weights stay, and so does what layers keep in no weight, such as the constants of an
    adapted `keras.layers.Normalization`. The site of a layer such as
    `Conv2D(name="conv1", activation="relu")` becomes a layer of its own after it, "conv1_relu".

    The one pair of `pssilu` is shared by all sites, in nested models too, and so is it in a file
    (`keras.models.clone_model` gives every nested model a pair). A sequential model then becomes a
    functional one; where a part of the network is frozen, so is the pair. Trained scalars of other
    activations are frozen where the layer was.

    Args:
      model: a built functional or sequential model; models nested in it are rebuilt too.
      activation: a spec for `sat_tf.activations.make`, such as "swish", or a callable that makes a
        new layer from the site's name.
      share_weights: builds a second view of the same network instead of a copy: its layers other
        than activations are the very layers of `model`, so that training one trains both.

    Returns:
      A new model. `model` is left as it was.

    Raises:
      ValueError: an unknown spec; a part of the network that cannot be searched; an activation
        with an `activity_regularizer`; with `share_weights`, a layer that shares its kernel but not
        its `activation=`.
    """
    make = activation if callable(activation) else activations.factory(activation)
    # Before anything is built, so that what cannot be searched is refused by name first.
    for _ in sites(model):
        pass
    rebuilding = _Rebuilding(make, share_weights)
    injected = rebuilding.model(model)
    if not share_weights:
        rebuilding.copy_state()
    return injected


def copy(model: keras.Model, *, fused_batch_norm: bool = False) -> keras.Model:
    """Makes the same network once more, with variables of its own.

    Unlike `keras.models.clone_model` it keeps what layers know beside their weights, and what is
    shared by layers of different nested models, such as the pair of `pssilu`.

    Args:
      model: a built model; one whose graph cannot be seen is made from its configuration.
      fused_batch_norm: whether Keras's `BatchNormalization` becomes `models.BatchNormalization`,
        which is the same and trains faster; in nested models too, as far as their graphs are seen.
    """
    rebuilding = _Rebuilding(None, share_weights=False, fused_batch_norm=fused_batch_norm)
    made = rebuilding.model(model)
    rebuilding.copy_state()
    return made


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
    """Rebuilds models with new activations; a layer used twice is rebuilt once.

    Args:
      make: makes an activation from a site's name; None keeps those that are there.
      share_weights: uses the old layers wherever they stay as they are.
      fused_batch_norm: rebuilds Keras's batch norm as ours.
    """

    def __init__(
        self,
        make: Callable[[str], keras.layers.Layer] | None,
        share_weights: bool,
        fused_batch_norm: bool = False,
    ):
        self.make = make
        self.fused_batch_norm = fused_batch_norm
        self.share = share_weights
        self.rebuilt = {}  # id(old operation) -> (old, new): holding the old keeps its id taken
        self.following = {}  # id(new host) -> the activation that follows it
        self.made = {}  # id(made activation) -> the same
        self.pairs = {}  # id(old pair of PSSiLU) -> (old, layer with the new pair)

    def model(self, model: keras.Model) -> keras.Model:
        if self.make is None and not is_graph(model):
            if isinstance(model, keras.Sequential):  # Keras clones its layers alone, not its call
                new = type(model).from_config(model.get_config())
            else:
                new = keras.models.clone_model(model)
            self.rebuilt[id(model)] = model, new
            return new
        scope = _Scope(model)
        if isinstance(model, keras.Sequential):
            new = self._sequential(model, scope)
        else:
            new = keras.models.clone_model(
                model,
                clone_function=lambda operation: self._operation(operation, scope),
                call_function=self._call,
            )
        # Only False: a model hands its flag down, and True would thaw layers frozen one by one.
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
            # A view may call a nested model as it is where that holds nothing to replace.
            keeps = self.share and not any(True for _ in sites(operation))
            return operation if keeps else self.model(operation)
        if self.make is None:
            return self._again(operation)
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
        # The host is made first: its activation is found by the host's id.
        new = type(operation).from_config({**config, "activation": "linear"})
        name = scope.free_name(f"{operation.name}_{fused.partition(':')[0]}")
        self.following[id(new)] = self._activation(operation, name, scope)
        return new

    def _activation(self, operation, name: str, scope: _Scope) -> keras.layers.Layer:
        if getattr(operation, "activity_regularizer", None) is not None:
            raise ValueError(
                f"layer {operation.name!r} has an activity_regularizer, which belongs to the "
                "activation that is replaced; put it on keras.layers.ActivityRegularization after "
                "the layer"
            )
        made = self.make(name)
        if id(made) not in scope.activations:
            twin = id(made) in self.made and isinstance(made, activations.PSSiLU)
            scope.activations[id(made)] = made.twin() if twin else made
            self.made[id(made)] = made
        layer = scope.activations[id(made)]
        if not getattr(operation, "trainable", True):
            layer.trainable = False
        # Before it is built, as its weights take their dtype from the policy.
        if not layer.built:
            policy = getattr(operation, "dtype_policy", None)
            layer.dtype_policy = policy or keras.DTypePolicy(operation.output.dtype)
        return layer

    def _again(self, operation):
        config = operation.get_config()
        if self.fused_batch_norm and type(operation) is keras.layers.BatchNormalization:
            return BatchNormalization.from_config(config)
        if not isinstance(operation, activations.PSSiLU):
            return type(operation).from_config(config)
        if id(operation.pair) in self.pairs:
            return self.pairs[id(operation.pair)][1].twin()
        new = type(operation).from_config({k: v for k, v in config.items() if k != "pair"})
        self.pairs[id(operation.pair)] = operation.pair, new
        return new

    def copy_state(self) -> None:
        for old, new in self.rebuilt.values():
            seen = isinstance(old, keras.Model) and is_graph(old)  # its layers stand beside it
            replaced = self.make is not None and own_activation(old)
            if isinstance(old, keras.layers.Layer) and not seen and not replaced:
                copy_state(old, new, with_parts=id(new) not in self.following)
