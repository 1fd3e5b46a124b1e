"""Released checkpoints and their graphs, written down a second time: names, shapes, float64."""

import types

import numpy as np
import tensorflow as tf

from sat_tf.released.plan import Tensor

RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
B0_STAGES = (  # repeats, kernel, stride, expansion, filters
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
B3_STAGES = (
    (2, 3, 1, 1, 24), (3, 3, 2, 6, 32), (3, 5, 2, 6, 48), (5, 3, 2, 6, 96), (5, 5, 1, 6, 136),
    (6, 5, 2, 6, 232), (2, 3, 1, 6, 384),
)  # fmt: skip
NOISE = {"global_step": ((), np.int64), "learning_rate": ((), np.float32)}


# The scheme as the reference graphs were saved, written down a second time.


def resnet_tensors(depth=50, smooth=False, width=64, groups=1, inner=1):
    shapes = {"conv0/W": (7, 7, 3, 64), "linear/W": (2048, 1000), "linear/b": (1000,)}
    shapes |= norm_tensors("conv0/bn", 64)
    sites = ["conv0"]
    channels = 64
    for group, blocks in enumerate(RESNET_BLOCKS[depth]):
        filters = width * 2**group
        for block in range(blocks):
            scope, k = f"group{group}/block{block}", filters * inner
            convolutions = {
                "conv1": (1, 1, channels, k),
                "conv2": (3, 3, k // groups, k),
                "conv3": (1, 1, k, 4 * filters),
            }
            if block == 0:
                convolutions["convshortcut"] = (1, 1, channels, 4 * filters)
            for name, shape in convolutions.items():
                shapes[f"{scope}/{name}/W"] = shape
                shapes |= norm_tensors(f"{scope}/{name}/bn", shape[-1])
            sites += [f"{scope}/conv1", f"{scope}/conv2", scope]
            channels = 4 * filters
    return shapes | ({f"{site}/smoothrelu_beta": (1,) for site in sites} if smooth else {})


def norm_tensors(scope, channels):
    names = ("gamma", "beta", "mean/EMA", "variance/EMA")
    return {f"{scope}/{name}": (channels,) for name in names}


def efficientnet_tensors(scope="efficientnet-b0", stages=B0_STAGES, stem=32, head=1280):
    shapes = {f"{scope}/stem/conv2d/kernel": (3, 3, 3, stem)}
    shapes |= tpu_norm_tensors(f"{scope}/stem/tpu_batch_normalization", stem)
    index, channels = 0, stem
    for repeats, kernel, _, expansion, filters in stages:
        for _ in range(repeats):
            block, wide = f"{scope}/blocks_{index}", channels * expansion
            convs, norms = ["conv2d", "conv2d_1"], ["", "_1", "_2"]
            if expansion > 1:
                shapes[f"{block}/{convs.pop(0)}/kernel"] = (1, 1, channels, wide)
                shapes |= tpu_norm_tensors(f"{block}/tpu_batch_normalization{norms.pop(0)}", wide)
            shapes[f"{block}/depthwise_conv2d/depthwise_kernel"] = (kernel, kernel, wide, 1)
            shapes |= tpu_norm_tensors(f"{block}/tpu_batch_normalization{norms.pop(0)}", wide)
            small = max(1, channels // 4)
            shapes[f"{block}/se/conv2d/kernel"] = (1, 1, wide, small)
            shapes[f"{block}/se/conv2d/bias"] = (small,)
            shapes[f"{block}/se/conv2d_1/kernel"] = (1, 1, small, wide)
            shapes[f"{block}/se/conv2d_1/bias"] = (wide,)
            shapes[f"{block}/{convs.pop(0)}/kernel"] = (1, 1, wide, filters)
            shapes |= tpu_norm_tensors(f"{block}/tpu_batch_normalization{norms.pop(0)}", filters)
            index, channels = index + 1, filters
    shapes[f"{scope}/head/conv2d/kernel"] = (1, 1, channels, head)
    shapes |= tpu_norm_tensors(f"{scope}/head/tpu_batch_normalization", head)
    return shapes | {
        f"{scope}/head/dense/kernel": (head, 1000),
        f"{scope}/head/dense/bias": (1000,),
    }


def tpu_norm_tensors(scope, channels):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{scope}/{name}": (1, 1, 1, 1, channels) for name in names}


def random_values(shapes, seed=0, largest_gamma=1.25):
    """Draws what keeps the signal alive through all layers without amplifying rounding."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in shapes.items():
        last = name.rpartition("/")[2]
        if last in ("W", "kernel", "depthwise_kernel"):
            fan_in = np.prod(shape[:3] if last != "depthwise_kernel" else shape[:2])
            value = rng.normal(0, (2 / fan_in) ** 0.5, shape)
        elif last == "gamma":
            value = rng.uniform(0.7, largest_gamma, shape)
        elif "variance" in name:
            value = rng.uniform(0.5, 0.9, shape)
        elif last == "smoothrelu_beta":
            value = rng.uniform(1.0, 3.0, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        values[name] = value.astype(np.float32)
    return values


def write_checkpoint(prefix, values):
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return str(prefix)


# The graphs, from tensors of those names alone: TensorFlow's operations, no layer of ours, float64.


def precise(values):
    return {name: value.astype(np.float64) for name, value in values.items()}


def normalised(x, values, scope, statistics=("moving_mean", "moving_variance")):
    mean, variance, gamma, beta = (
        values[f"{scope}/{name}"].reshape(-1) for name in (*statistics, "gamma", "beta")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def smoothrelu(x, beta):
    slope = beta**2
    return tf.where(x > 0, x - tf.math.log1p(slope * tf.maximum(x, 0)) / slope, 0)


def resnet_logits(values, images, depth=50):
    """Takes what the graph takes: whatever channel order conv0/W was trained with."""
    values = precise(values)

    def act(x, site):
        beta = values.get(f"{site}/smoothrelu_beta")
        return x * tf.sigmoid(x) if beta is None else smoothrelu(x, beta)

    def conv(x, scope, stride=1):
        kernel = values[f"{scope}/W"]
        if stride > 1 and len(kernel) > 1:
            pad = len(kernel) // 2
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        x = tf.nn.conv2d(x, kernel, stride, "VALID" if stride > 1 else "SAME")
        return normalised(x, values, f"{scope}/bn", ("mean/EMA", "variance/EMA"))

    x = act(conv(images * (2 / 255) - 1, "conv0", 2), "conv0")
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for group, blocks in enumerate(RESNET_BLOCKS[depth]):
        for block in range(blocks):
            scope = f"group{group}/block{block}"
            stride = 2 if group and not block else 1
            shortcut = x if block else conv(x, f"{scope}/convshortcut", stride)
            x = act(conv(x, f"{scope}/conv1"), f"{scope}/conv1")
            x = act(conv(x, f"{scope}/conv2", stride), f"{scope}/conv2")
            x = act(conv(x, f"{scope}/conv3") + shortcut, scope)
    return tf.reduce_mean(x, [1, 2]) @ values["linear/W"] + values["linear/b"]


def efficientnet_logits(values, images, scope="efficientnet-b0", end=""):
    values = {name.removesuffix(end): value for name, value in precise(values).items()}

    def swish(x):
        return x * tf.sigmoid(x)

    def conv(x, name, stride=1):
        return tf.nn.conv2d(x, values[f"{scope}/{name}/kernel"], stride, "SAME")

    def norm(x, name):
        return normalised(x, values, f"{scope}/{name}")

    x = conv(images * (2 / 255) - 1, "stem/conv2d", 2)
    x = swish(norm(x, "stem/tpu_batch_normalization"))
    index = 0
    for repeats, _, stride, expansion, _ in B0_STAGES:
        for repeat in range(repeats):
            block, shortcut, n = f"blocks_{index}", x, 0
            if expansion > 1:
                x = swish(norm(conv(x, f"{block}/conv2d"), f"{block}/tpu_batch_normalization"))
                n = 1
            strides = [1, *[1 if repeat else stride] * 2, 1]
            kernel = values[f"{scope}/{block}/depthwise_conv2d/depthwise_kernel"]
            x = tf.nn.depthwise_conv2d(x, kernel, strides, "SAME")
            x = swish(norm(x, f"{block}/tpu_batch_normalization{'_1' if n else ''}"))
            gate = tf.reduce_mean(x, [1, 2], keepdims=True)
            gate = swish(
                conv(gate, f"{block}/se/conv2d") + values[f"{scope}/{block}/se/conv2d/bias"]
            )
            gate = conv(gate, f"{block}/se/conv2d_1") + values[f"{scope}/{block}/se/conv2d_1/bias"]
            x = x * tf.sigmoid(gate)
            x = conv(x, f"{block}/conv2d{'_1' if n else ''}")
            x = norm(x, f"{block}/tpu_batch_normalization_{1 + n}")
            x = x + shortcut if repeat else x
            index += 1
    x = swish(norm(conv(x, "head/conv2d"), "head/tpu_batch_normalization"))
    dense = f"{scope}/head/dense"
    return tf.reduce_mean(x, [1, 2]) @ values[f"{dense}/kernel"] + values[f"{dense}/bias"]


def given(**values):
    names = "checkpoint output model activation image_size channel_order ema normalization"
    defaults = {**dict.fromkeys(names.split()), "list": False, "from": "paper"}
    return types.SimpleNamespace(**defaults | values)


def random_images(size, num_images=2):
    """Coarse colours: the means over the last maps would hide fine noise."""
    colours = np.random.default_rng(3).uniform(0, 255, (num_images, 2, 2, 3))
    return colours.repeat(size // 2, 1).repeat(size // 2, 2)


def assert_same_logits(found, expected):
    differences = np.std(expected[0] - expected[1])  # the images matter, not the biases alone
    assert differences > 0.1 * np.std(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * differences)


def tensors(shapes):
    return {name: Tensor(shape) for name, shape in shapes.items()}
