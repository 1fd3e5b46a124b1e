"""Laws of the pictures: the grid of images and the curves of activations."""

import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.callbacks import PictureGrid, curves, pictures
from tests.watched import Scale, compiled, dataset, lower


def test_pixels_between_whole_numbers_are_shown_as_the_nearest():
    clean = np.full([1, 8, 8, 1], 99.6, np.float32)
    chances = np.full([1, 10], 0.1)
    page = pictures.draw(clean, clean + 0.8, np.array([0]), (chances, chances))
    for column in (0, 2):
        left, top, right, bottom = pictures.cell(0, column, 8, 8)
        assert (page[top:bottom, left:right] == 100).all()


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 20, 1), (64, 224, 3)])
def test_the_grid_holds_the_enlarged_images_and_the_amplified_perturbation(shape):
    random = np.random.default_rng(1)
    clean = random.integers(3, 256, [2, *shape]).astype(np.float32)
    labels = np.array([4, 7])
    adversarial = np.asarray(lower(None, tf.constant(clean), labels))
    chances = np.full([2, 10], 0.1)
    page = pictures.draw(clean, adversarial, labels, (chances, chances))
    height, width = shape[:2]
    boxes = []
    for row in range(2):
        for column, expected in enumerate((clean, None, adversarial)):
            left, top, right, bottom = pictures.cell(row, column, height, width)
            scale = (right - left) // width
            assert (right - left, bottom - top) == (width * scale, height * scale)
            assert min(right - left, bottom - top) >= 128
            boxes.append((left, top, right, bottom))
            shown = page[top:bottom, left:right]
            if column == 1:
                # 42 = floor(127 / 3); the untouched right half is grey.
                half = width // 2 * scale
                assert (shown[:, :half] == 128 - 42 * 3).all()
                assert (shown[:, half:] == 128).all()
            else:
                big = np.kron(expected[row], np.ones([scale, scale, 1]))
                assert (shown == big).all()
    assert len(set(boxes)) == 6
    assert all(r <= page.shape[1] and b <= page.shape[0] for _, _, r, b in boxes)


def test_without_a_perturbation_the_middle_column_is_grey():
    clean = np.full([1, 8, 8, 1], 77, np.float32)
    chances = np.eye(10)[:1]
    page = pictures.draw(clean, clean, np.array([0]), (chances, chances))
    left, top, right, bottom = pictures.cell(0, 1, 8, 8)
    assert (page[top:bottom, left:right] == 128).all()


def test_a_caption_never_leaves_its_column_and_colour_says_right_or_wrong():
    clean = np.zeros([1, 8, 8, 1], np.float32)

    def page_of(names, label, chances=(1.0, 0.0)):
        chances = np.array([chances])
        return pictures.draw(clean, clean, np.array([label]), (chances, chances), names)

    left, _, _, bottom = pictures.cell(0, 0, 8, 8)
    second = pictures.cell(0, 1, 8, 8)[0]
    third = pictures.cell(0, 2, 8, 8)[0]
    short, long = page_of(["ox", "fly"], 0), page_of(["w" * 90, "fly"], 0)
    differs = np.nonzero((short != long).any(axis=(0, 2)))[0]
    assert differs.min() >= left
    assert not ((differs >= second) & (differs < third)).any()
    right, wrong = short, page_of(["ox", "fly"], 1)

    def colourful(page):
        caption = page[bottom:, third:].reshape(-1, 3).astype(int)
        return caption[np.abs(caption[:, 0] - caption[:, 1]).argmax()]

    assert colourful(right)[1] > colourful(right)[0]  # green
    assert colourful(wrong)[0] > colourful(wrong)[1]  # red
    unlike = (np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))  # the attack succeeds
    fooled = pictures.draw(clean, clean, np.array([0]), unlike, ["ox", "fly"])
    assert (fooled[bottom:, :third] == right[bottom:, :third]).all()
    assert colourful(fooled)[0] > colourful(fooled)[1]
    nothing = page_of(["ox", "fly"], 0, (np.nan, np.nan))  # argmax says 0
    assert colourful(nothing)[0] > colourful(nothing)[1]


def test_the_grid_shows_the_attack_with_the_same_seed_every_time_and_traces_it_once():
    seeds, traced = [], []

    def attack(network, images, labels, seed):
        traced.append(network)
        tf.numpy_function(lambda seed: seeds.append(tuple(seed)), [seed], [])
        return images + 1

    images, labels = next(iter(dataset()))
    grid = PictureGrid(images[:2], labels[:2], attack, seed=5)
    network = compiled().network
    first, second = grid(network), grid(network)
    assert (first == second).all()
    PictureGrid(images[:2], labels[:2], attack, seed=6)(network)
    assert seeds[0] == seeds[1] != seeds[2]
    assert traced == [network, network]  # one for each grid


def test_the_grid_follows_the_weights_and_the_network_it_is_given():
    images, labels = next(iter(dataset()))
    grid = PictureGrid(images[:2], labels[:2], lower)
    network, other = compiled().network, compiled().network
    before = grid(network)
    other.set_weights([-3 * weight for weight in network.get_weights()])
    changed = grid(other)
    network.set_weights(other.get_weights())
    np.testing.assert_array_equal(grid(network), changed)
    assert (changed != before).any()


def test_a_soft_label_is_drawn_as_its_most_probable_class_and_attacked_as_it_is():
    given = []

    def attack(network, images, labels, seed):
        given.append(labels)
        return images + 1

    images, labels = next(iter(dataset()))
    network = compiled().network
    rows = 0.5 * np.eye(network.output_shape[-1])[labels[:2]] + 0.5 / network.output_shape[-1]
    soft, hard = (PictureGrid(images[:2], some, attack)(network) for some in (rows, labels[:2]))
    np.testing.assert_array_equal(soft, hard)
    assert [(one.dtype, one.shape.rank) for one in given] == [("float32", 2), ("int32", 1)]


def test_pictures_refuse_what_they_cannot_draw():
    with pytest.raises(ValueError, match=r"1 or 3\]; got \[2, 8, 8, 2\]"):
        PictureGrid(np.zeros([2, 8, 8, 2]), np.zeros(2), lower)
    with pytest.raises(ValueError, match=r"labels \[3\] for 2 images"):
        PictureGrid(np.zeros([2, 8, 8, 1]), np.zeros(3), lower)
    with pytest.raises(ValueError, match=r"labels \[2, 1\] for 2 images"):
        PictureGrid(np.zeros([2, 8, 8, 1]), np.zeros([2, 1]), lower)
    with pytest.raises(ValueError, match=r"labels \[2, 5, 5\] for 2 images"):
        PictureGrid(np.zeros([2, 8, 8, 1]), np.zeros([2, 5, 5]), lower)


def test_curves_are_the_function_and_its_derivative():
    points = np.linspace(-4, 4, 33, dtype=np.float32)
    value, slope = curves.evaluate(keras.layers.Activation("silu"), points)
    x = points.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(value, x * sigmoid, atol=1e-6)
    np.testing.assert_allclose(slope, sigmoid * (1 + x * (1 - sigmoid)), atol=1e-6)


def test_only_hidden_activations_are_watched_those_of_nested_models_too():
    inner_input = keras.Input([4])
    inner = keras.Model(inner_input, keras.layers.ReLU(name="inner_relu")(inner_input))
    x = pixels = keras.Input([4])
    x = keras.layers.Activation("sigmoid", name="gate")(inner(x))
    x = keras.layers.Activation("tanh", name="another_gate")(x)
    x = keras.layers.ReLU(6, name="hard_sigmoid_times_6")(x + 3.0)
    x = Scale(name="scale")(keras.layers.Dense(4, activation="relu")(x))
    network = keras.Model(pixels, keras.layers.Softmax()(x))
    names = [layer.name for layer in curves.activation_layers(network)]
    assert names == ["inner_relu", "scale"]


def test_equal_activations_share_a_line_and_trained_ones_do_not():
    def colours(layers):
        page = curves.draw(layers)[60:]
        flat = page.reshape(-1, 3)
        strong = flat[flat.max(1).astype(int) - flat.min(1) > 120].astype(int)
        return {"blue": (strong[:, 2] > strong[:, 0]).any(), "red": (strong[:, 0] > 150).any()}

    fixed = [keras.layers.Activation("swish", name=f"a{i}") for i in range(3)]
    assert colours(fixed) == {"blue": True, "red": False}
    trained = [Scale(name=f"s{i}") for i in range(2)]
    for i, layer in enumerate(trained):
        layer.build([None, 4])
        layer.factor.assign([1.0 + i])
    assert colours(trained) == {"blue": True, "red": True}


def test_each_panel_has_its_own_title_place_and_curves(monkeypatch):
    seen = []
    monkeypatch.setattr(curves, "_panel", lambda pen, *given: seen.append(given))
    layer = Scale(name="scale")
    layer.build([None, 4])
    layer.factor.assign([3.0])
    curves.draw([layer])
    (top, title, points, (line,)), (below, other, same, (slope,)) = seen
    assert (title, other) == ("f(x)", "f'(x)") and 0 < top < below
    np.testing.assert_array_equal(points, same)
    np.testing.assert_allclose(line, 3 * points, rtol=1e-6)
    np.testing.assert_allclose(slope, np.full(len(points), 3.0), rtol=1e-6)


def test_a_curve_stands_where_the_numbers_of_its_axes_say():
    lines, texts = [], []
    pen = types.SimpleNamespace(
        line=lambda path, *_, **__: lines.append(path),
        text=lambda place, text, *_, anchor="la": texts.append((anchor, text, place)),
    )
    points = np.linspace(-4, 4, 321, dtype=np.float32)
    curves._panel(pen, 50, "f(x)", points, [2 - points])
    across = {float(text): place[0] for anchor, text, place in texts if anchor == "ma"}
    down = {float(text): place[1] for anchor, text, place in texts if anchor == "rm"}
    assert sorted(across) == [-4, -2, 0, 2, 4] and sorted(down) == [-2, 0, 2, 4, 6]
    path = dict(zip(points.tolist(), lines[-1], strict=True))
    for x, place in across.items():
        np.testing.assert_allclose(path[x], (place, down[2 - x]), rtol=1e-6)
    assert across[-4] < across[4] and down[6] < down[-2]  # pixels count from the top


def test_ticks_are_round_and_inside():
    for low, high in [(-4, 4), (-0.3, 1.1), (0, 1e-3), (-250.0, 900.0)]:
        ticks = curves.round_ticks(low, high)
        assert 2 <= len(ticks) <= 7
        assert all(low <= tick <= high for tick in ticks)
        for gap in np.diff(ticks):
            assert re.fullmatch(r"[125]\.0+e[+-]\d+", f"{gap:.6e}")


def test_captions_say_the_class_how_far_the_attack_went_and_the_answer():
    far = np.zeros([2, 2, 1], np.float32)
    far[0, 0], far[1, 1] = -3.0, 4.0
    chances = [np.array([0.25, 0.75]), np.array([0.9, 0.1])]

    def said(column, moved=far):
        lines = pictures._caption(column, 1, moved, chances)
        return [text if name is None else text.format(name) for text, name, _ in lines]

    assert said(0) == ["true 1", "says 1, 75 %"] and said(2) == ["says 0, 90 %"]
    assert said(1) == ["largest change 4", "L2 norm 5.0"]
    assert said(1, np.full([100, 100, 3], -4.0)) == ["largest change 4", "L2 norm 693"]


def test_the_lines_under_a_picture_are_of_its_own_row(monkeypatch):
    found = {}
    pen = types.SimpleNamespace(text=lambda place, text, *_: found.update({text: place}))
    monkeypatch.setattr(pictures.ImageDraw, "Draw", lambda page: pen)
    clean = np.zeros([2, 8, 8, 1], np.float32)
    moved = clean + np.reshape([3, 5], [2, 1, 1, 1])
    chances = np.array([[[0.25, 0.75], [0.6, 0.4]], [[0.9, 0.1], [0.2, 0.8]]])
    pictures.draw(clean, moved, np.array([0, 1]), chances, ["ox", "fly"])
    assert "perturbation x 25" in found  # floor(127 / 5)
    tops = [pictures.cell(row, 0, 8, 8)[3] + 1 for row in range(2)]
    for row, texts in enumerate((
        ("true ox", "says fly, 75 %", "largest change 3", "L2 norm 24.0", "says ox, 90 %"),
        ("true fly", "says ox, 60 %", "largest change 5", "L2 norm 40.0", "says fly, 80 %"),
    )):  # fmt: skip
        columns = [pictures.cell(row, column, 8, 8)[0] for column in (0, 0, 1, 1, 2)]
        lines = [tops[row] + line * pictures._LINE for line in (0, 1, 0, 1, 0)]
        assert [found[text] for text in texts] == list(zip(columns, lines, strict=True))


def test_the_perturbation_is_amplified_as_far_as_nothing_is_clipped():
    assert pictures._amplification(0.0) == 1
    for largest, factor in ((0.5, 254), (3.0, 42), (127.0, 1), (128.0, 127 / 128), (254.0, 0.5)):
        assert pictures._amplification(np.float32(largest)) == factor


def test_a_curve_of_a_weight_a_channel_is_the_mean_over_the_channels():
    layer = keras.layers.PReLU(shared_axes=[1, 2])
    layer.build([None, 1, 1, 3])
    layer.alpha.assign([[[0.1, 0.2, 0.6]]])
    points = np.array([-2.0, -0.5, 1.5], np.float32)
    value, slope = curves.evaluate(layer, points)
    np.testing.assert_allclose(value, [-0.6, -0.15, 1.5], rtol=1e-6)
    np.testing.assert_allclose(slope, [0.3, 0.3, 1.0], rtol=1e-6)


def test_lines_run_from_blue_at_the_first_layer_to_red_at_the_last():
    first, middle, last = (np.array(curves._colour(index, 3)) for index in range(3))
    assert first.argmax() == 2 and last.argmax() == 0
    assert (np.abs(middle - (first + last) / 2) <= 0.5).all()
    assert curves._colour(0, 1) == tuple(first) and curves._colour(1, 2) == tuple(last)


def test_the_head_of_curves_names_each_kind_once_and_the_first_and_last_layer():
    def written(names, num_layers):
        layers = [keras.layers.Activation("relu", name=name) for name in names]
        found = []
        curves._header(
            types.SimpleNamespace(text=lambda *x, **_: found.append(x[1:3])), layers, num_layers
        )
        return found

    assert [text for text, _ in written(["a"], 1)] == ["relu in one layer"]
    head, first, last = written(["a", "b", "c"], 4)
    assert head[0] == "relu in 4 layers"
    assert first == ("first: a", curves._colour(0, 3)) and last == ("last: c", curves._colour(2, 3))
