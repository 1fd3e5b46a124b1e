"""What layers know: their weights, and the state beside them that Keras keeps in no weight.

An adapted `keras.layers.Normalization` computes with constants made from its weights, a lookup
layer with a table. Assigning weights (`set_weights`, a checkpoint) leaves both as they were; the
methods by which a layer enters and leaves a Keras file do not.
"""

import tempfile

import keras


def copy_state(
    old: keras.layers.Layer, new: keras.layers.Layer, *, with_parts: bool = True
) -> None:
    """Gives a layer all that another of the same configuration knows.

    Args:
      old: built.
      new: built, of the same class and configuration.
      with_parts: whether the layers inside them are copied, too.
    """
    parts = zip(*(layer._flatten_layers() for layer in (old, new)), strict=True)
    for source, target in parts if with_parts else [(old, new)]:
        target.load_own_variables(_own_variables(source))
        if hasattr(source, "save_assets"):
            with tempfile.TemporaryDirectory() as directory:
                source.save_assets(directory)
                target.load_assets(directory)


def renew(model: keras.Model) -> None:
    """Renews what the layers of a model derive from their weights, after these were assigned."""
    for layer in model._flatten_layers():
        layer.load_own_variables(_own_variables(layer))


def _own_variables(layer):
    store = {}
    layer.save_own_variables(store)
    return {name: keras.ops.convert_to_numpy(value) for name, value in store.items()}
