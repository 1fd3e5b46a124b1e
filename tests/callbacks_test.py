"""Laws of the callbacks that show a run: progress, TensorBoard, pictures, curves, NaN."""

import io
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.plugins.hparams import metadata

from sat_tf.callbacks import (
    PictureGrid,
    Progress,
    StopOnNaN,
    TensorBoard,
    curves,
    pictures,
    tensorboard,
)
from sat_tf.runs import distribution

STEPS, BATCH = 4, 8


class Clock:
    """A clock that goes only when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@keras.saving.register_keras_serializable(package="callbacks_test")
class Scale(keras.layers.Layer):
    """A trained activation x -> w x."""

    __module__ = "somewhere.activations"

    def build(self, shape):
        self.factor = self.add_weight(shape=(1,), initializer="ones", name="factor")

    def call(self, x):
        return self.factor * x


class Trainer(keras.Model):
    """What the callbacks need of a trainer, and nothing else."""

    def __init__(self, activation=None):
        super().__init__()
        pixels = keras.Input([8, 8, 1])
        x = keras.layers.Flatten()(pixels)
        x = keras.layers.Dense(3, name="first")(x)
        x = (activation or keras.layers.Activation("swish", name="act"))(x)
        x = keras.layers.Dense(10)(x)
        self.network = keras.Model(pixels, keras.layers.Activation("linear")(x))

    def call(self, images, training=None):
        return self.network(images / 255, training=training)


def lower(network, images, labels, seed=None):
    """An attack that darkens the left half by 3 pixels."""
    step = np.zeros(images.shape[1:], np.float32)
    step[:, : images.shape[2] // 2] = 3
    return tf.maximum(images - step, 0.0)


def dataset():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, [BATCH * STEPS, 8, 8, 1]).astype(np.float32)
    labels = random.integers(0, 10, BATCH * STEPS).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)


def compiled(activation=None, learning_rate=0.1):
    trainer = Trainer(activation)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.SGD(learning_rate), loss)
    return trainer


def fit(trainer, callbacks, epochs=2, initial_epoch=0, data=None):
    data = dataset() if data is None else data
    options = dict(initial_epoch=initial_epoch, shuffle=False, verbose=0)
    return trainer.fit(
        data.repeat(),
        steps_per_epoch=STEPS,
        epochs=epochs,
        validation_data=data,
        callbacks=callbacks,
        **options,
    )


def run_epoch(progress, clock, epoch, first=0, seconds=2.0, closing=0.0, logs=None):
    """Plays an epoch of 10 steps."""
    logs = logs or {"loss": 1.5, "adversarial_accuracy": 0.25}
    progress.on_epoch_begin(epoch)
    for batch in range(10 - first):
        clock.now += seconds
        progress.on_train_batch_end(batch, logs)
    clock.now += closing
    progress.on_epoch_end(epoch, logs)


def progress_of(clock, stream=None, epochs=3, initial_step=0):
    stream = io.StringIO() if stream is None else stream
    return Progress(
        epochs=epochs,
        steps_per_epoch=10,
        batch_size=6,
        initial_step=initial_step,
        stream=stream,
        clock=clock,
    )


def test_time_left_is_unknown_before_two_steps_and_exact_afterwards():
    clock = Clock()
    progress = progress_of(clock)
    progress.on_epoch_begin(0)
    clock.now += 500  # tracing
    progress.on_train_batch_end(0, {"loss": 1.0})
    assert progress.seconds_left() is None
    clock.now += 2
    progress.on_train_batch_end(1, {"loss": 1.0})
    assert progress.seconds_left() == (8 * 2, 28 * 2)


def test_time_left_counts_the_end_of_every_epoch_once_one_has_been_seen():
    clock = Clock()
    progress = progress_of(clock)
    run_epoch(progress, clock, 0, closing=7.0)
    clock.now += 3.0  # callbacks that came later, such as a checkpoint
    progress.on_epoch_begin(1)
    assert progress.seconds_left() == (10 * 2 + 10, 2 * (10 * 2 + 10))


def test_time_left_shrinks_while_validation_runs():
    clock = Clock()
    progress = progress_of(clock, epochs=2)
    run_epoch(progress, clock, 0, closing=7.0)
    progress.on_epoch_begin(1)
    for batch in range(10):
        clock.now += 2
        progress.on_train_batch_end(batch, {"loss": 1.0})
    clock.now += 4
    assert progress.seconds_left() == (3.0, 3.0)
    clock.now += 9  # longer than the last time
    assert progress.seconds_left() == (0.0, 0.0)


def test_every_estimate_is_the_truth_from_the_second_epoch_on_with_the_test(monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    clock, stream = Clock(), Terminal()
    progress = Progress(
        epochs=4, steps_per_epoch=10, batch_size=6, test_work=3.0, stream=stream, clock=clock
    )
    logs = {"loss": 1.5, "val_clean_accuracy": 0.5}
    said = []  # (clock, seconds that a line says are left)

    def shown():
        found = re.findall(r"(?:run |\| )(\d+):(\d+)(?: left)?$", stream.getvalue().rstrip())
        said.extend((clock.now, 60 * int(m) + int(s)) for m, s in found[-1:])

    for epoch in range(4):
        progress.on_epoch_begin(epoch)
        for batch in range(10):
            clock.now += 2
            progress.on_train_batch_end(batch, logs)
            shown()
        progress.on_test_begin()
        for batch in range(5):
            clock.now += 1
            progress.on_test_batch_end(batch)
            shown()
        progress.on_test_end()
        progress.on_epoch_end(epoch, logs)
        shown()
        clock.now += 4  # pictures, a checkpoint
    end = clock.now + 3 * 5
    second = 1000 + 10 * 2 + 5 + 4
    assert all(left == end - now for now, left in said if now > second), said
    assert all(left <= end - now for now, left in said) and len(said) > 50


def test_a_summary_is_broken_where_it_would_exceed_the_terminal(monkeypatch):
    logs = {"loss": 1.25, "adversarial_accuracy": 0.25, "val_loss": 0.5}
    logs |= {"val_clean_accuracy": 0.753, "val_adversarial_accuracy": 0.5}
    texts = []
    for columns, stream in [(80, Terminal()), (40, Terminal()), (300, Terminal()), (80, None)]:
        monkeypatch.setenv("COLUMNS", str(columns))
        stream = stream or io.StringIO()
        run_epoch(progress_of(Clock(), stream), Clock(), 0, logs=logs)
        text = stream.getvalue().rpartition("\x1b[K")[2]
        texts.append(" | ".join(line.strip() for line in text.splitlines()))
        if columns == 80 and stream.isatty():
            assert text.count("\n") == 2 and max(map(len, text.splitlines())) < 80
        if columns == 300:
            assert text.count("\n") == 1
    assert len(set(texts)) == 1  # the same words, however they are broken


def test_after_a_resume_the_first_epoch_is_shorter_and_the_next_one_whole():
    clock = Clock()
    progress = progress_of(clock, initial_step=7)
    progress.on_epoch_begin(1)
    for batch in range(2):
        clock.now += 2
        progress.on_train_batch_end(batch, {"loss": 1.0})
    assert progress.seconds_left() == (1 * 2, 11 * 2)
    clock.now += 2
    progress.on_train_batch_end(2, {"loss": 1.0})
    progress.on_epoch_end(1, {"loss": 1.0})
    progress.on_epoch_begin(2)
    assert progress.seconds_left() == (20, 20)


def test_speed_leaves_out_tracing_and_validation():
    clock = Clock()
    stream = io.StringIO()
    progress = progress_of(clock, stream)
    run_epoch(progress, clock, 0, closing=100)
    assert "| 3 images/s |" in stream.getvalue()  # 6 images in 2 seconds


def test_into_a_file_go_plain_lines_and_no_more_often_than_every_30_seconds():
    clock = Clock()
    stream = io.StringIO()
    progress = progress_of(clock, stream)
    for epoch in range(3):
        run_epoch(progress, clock, epoch, seconds=5.0)
    progress.on_train_end()
    text = stream.getvalue()
    assert text.replace("\n", "").isprintable()
    assert text.endswith("\n")
    summaries = [line for line in text.splitlines() if " in 0:50 " in line]
    assert len(summaries) == 3
    assert len(text.splitlines()) == 6  # 50 seconds an epoch leave room for one line between


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_on_a_terminal_one_line_is_redrawn_inside_its_width_twice_a_second(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    clock = Clock()
    stream = Terminal()
    progress = progress_of(clock, stream)
    progress.on_epoch_begin(0)
    for batch in range(10):
        clock.now += 0.25
        progress.on_train_batch_end(batch, {"loss": 1.5, "adversarial_accuracy": 0.25})
    drawn = stream.getvalue().split("\r\x1b[K")[1:]
    assert len(drawn) == 1 + 5
    assert all(line.isprintable() and len(line) < columns for line in drawn)
    assert all(("[" in line) == (columns > 80) for line in drawn[1:])
    if columns >= 80:  # what does not fit is left out, not cut off
        assert re.search(r"left: epoch 0:0\d, run 0:0\d$", drawn[-1])
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_validation_inside_fit_is_shown_and_outside_is_not(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    clock = Clock()
    stream = Terminal()
    progress = progress_of(clock, stream)
    progress.on_test_batch_end(0)
    assert stream.getvalue() == ""
    progress.on_epoch_begin(0)
    clock.now += 2
    progress.on_test_batch_end(0)
    assert "validation 1 " in stream.getvalue()
    progress.on_test_batch_end(4)
    progress.on_test_end()
    clock.now += 2
    progress.on_test_batch_end(1)
    assert "validation 2/5 [" in stream.getvalue()


def test_summary_of_an_epoch_names_time_and_every_accuracy():
    clock = Clock()
    stream = io.StringIO()
    logs = {
        "loss": 1.25,
        "adversarial_accuracy": 0.25,
        "val_loss": 0.5,
        "val_clean_accuracy": 0.753,
        "val_adversarial_accuracy": 0.5,
    }
    run_epoch(progress_of(clock, stream), clock, 0, closing=3700, logs=logs)
    assert stream.getvalue().splitlines()[-1] == (
        "epoch 1/3 in 1:02:00 | 3 images/s | train: loss 1.2500, adversarial 25.0 % | "
        "validation: loss 0.5000, clean 75.3 %, adversarial 50.0 % | 2:04:00 left"
    )


def test_progress_works_inside_fit():
    stream = io.StringIO()
    fit(
        compiled(),
        [Progress(epochs=2, steps_per_epoch=STEPS, batch_size=BATCH, stream=stream)],
    )
    lines = stream.getvalue().splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_with_one_line_that_names_the_step(bad):
    stop = StopOnNaN(steps_per_epoch=10, initial_step=2)
    model = types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=34))
    stop.set_model(model)
    stop.on_epoch_begin(3)
    stop.on_train_batch_end(0, {"loss": 2.5})
    with pytest.raises(FloatingPointError) as raised:
        stop.on_train_batch_end(1, {"loss": bad})
    message = str(raised.value)
    assert f"loss became {bad} in epoch 4, step 4 of 10, optimiser step 34" in message
    assert "2.5" in message and "learning rate" in message and "\n" not in message


class Saves(keras.callbacks.Callback):
    """Stands for whatever writes checkpoints."""

    def __init__(self):
        super().__init__()
        self.saved = []

    def on_train_batch_end(self, batch, logs=None):
        self.saved.append(all(np.isfinite(w).all() for w in self.model.network.get_weights()))

    on_epoch_end = on_train_batch_end


def test_divergence_in_fit_is_stopped_before_a_bad_state_is_saved():
    def poison(index, batch):
        images, labels = batch
        return tf.where(index == 2, np.nan, images), labels

    saves = Saves()
    with pytest.raises(FloatingPointError, match="epoch 1, step 3 of 4, optimiser step 3"):
        fit(compiled(), [StopOnNaN(STEPS), saves], data=dataset().enumerate().map(poison))
    assert saves.saved == [True, True]


def test_weights_that_are_not_finite_are_named_at_the_end_of_the_epoch():
    trainer = compiled()
    stop = StopOnNaN(STEPS)
    stop.set_model(trainer)
    stop.on_epoch_end(0, {"loss": 1.0})
    kernel = trainer.network.get_layer("first").kernel
    kernel.assign(tf.tensor_scatter_nd_update(kernel.value, [[5, 1]], [np.inf]))
    with pytest.raises(FloatingPointError, match="first/kernel"):
        stop.on_epoch_end(0, {"loss": 1.0})
    kernel.assign(tf.zeros_like(kernel.value))
    with pytest.raises(FloatingPointError, match="validation loss became nan"):
        stop.on_epoch_end(0, {"loss": 1.0, "val_loss": float("nan")})
    normed = compiled(keras.layers.BatchNormalization(name="norm"))
    normed.network.get_layer("norm").moving_mean.assign([0.0, np.inf, 0.0])  # no trained weight
    stop.set_model(normed)
    with pytest.raises(FloatingPointError, match="the weight norm/moving_mean became"):
        stop.on_epoch_end(0, {"loss": 1.0})


def test_after_a_resume_only_the_first_epoch_is_begun():
    stop = StopOnNaN(STEPS, initial_step=2)
    stop.set_model(compiled())
    stop.on_epoch_begin(4)
    stop.on_train_batch_end(0, {"loss": 1.0})
    stop.on_epoch_end(4, {"loss": 1.0})
    stop.on_epoch_begin(5)
    with pytest.raises(FloatingPointError, match=f"in epoch 6, step 1 of {STEPS},"):
        stop.on_train_batch_end(0, {"loss": np.nan})


class Records(keras.callbacks.Callback):
    """Remembers the logs, independently of what is written."""

    def on_train_begin(self, logs=None):
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def events(directory):
    """Reads {tag: [(step, value)]} with TensorFlow's record reader alone."""
    found = {}
    for path in sorted(directory.glob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                found.setdefault(value.tag, []).append((event.step, array))
    return found


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Two epochs of four steps, written every two."""
    directory = tmp_path_factory.mktemp("logs")
    keras.utils.set_random_seed(0)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 8, 0.0)
    trainer = compiled(Scale(name="scale"), schedule)
    images, labels = next(iter(dataset()))
    records = Records()
    grid = PictureGrid(images[:2], labels[:2], lower)
    settings = {"epsilon": 8.0, "boundary": [1, 2], "nesterov": True}
    board = TensorBoard(
        directory, batch_size=BATCH, every_steps=2, pictures=grid, settings=settings
    )
    fit(trainer, [records, board])
    return directory, records, trainer


def test_events_hold_every_figure_at_the_right_step(logged):
    directory, records, trainer = logged
    train, validation = (events(directory / run) for run in ("train", "validation"))
    assert train["step/loss"] == [(s, np.float32(records.batches[s - 1])) for s in (2, 4, 6, 8)]
    rates = [0.1 * (1 - s / 8) for s in (2, 4, 6, 8)]
    np.testing.assert_allclose([v for _, v in train["step/learning_rate"]], rates, atol=1e-7)
    for epoch, logs in enumerate(records.epochs):
        step = STEPS * (epoch + 1)
        assert train["epoch/loss"][epoch] == (step, np.float32(logs["loss"]))
        assert validation["epoch/loss"][epoch] == (step, np.float32(logs["val_loss"]))
    factors = train["trained_activation/scale/factor"]
    assert [step for step, _ in factors] == [0, 4, 8]
    assert factors[0][1] == 1
    assert factors[-1][1] == trainer.network.get_layer("scale").factor.numpy()[0]


def test_pictures_and_curves_are_written_every_epoch(logged):
    directory, _, _ = logged
    validation = events(directory / "validation")
    assert [step for step, _ in validation["attack/pictures"]] == [4, 8]
    assert [step for step, _ in events(directory / "train")["activation/curve"]] == [0, 4, 8]
    width, height, png = validation["attack/pictures"][0][1]
    decoded = tf.image.decode_png(png)
    assert decoded.shape == (int(height), int(width), 3)


def test_a_curve_that_every_run_has_is_in_none(tmp_path):
    fit(compiled(), [TensorBoard(tmp_path, batch_size=BATCH)], epochs=1)  # swish
    train = events(tmp_path / "train")
    assert "epoch/loss" in train and not [tag for tag in train if "activation" in tag]


def test_pictures_are_those_of_the_average_where_there_is_one(tmp_path, monkeypatch):
    drawn = []

    def pictures(network):
        drawn.append(network)
        return np.zeros((2, 2, 3), np.uint8)

    trainer = compiled()
    options = {"batch_size": BATCH, "pictures": pictures, "activations": []}
    fit(trainer, [TensorBoard(tmp_path / "plain", **options)], epochs=1)
    monkeypatch.setattr(Trainer, "best_network", "the average", raising=False)
    fit(trainer, [TensorBoard(tmp_path / "averaged", **options)], epochs=1)
    assert drawn == [trainer.network, "the average"]


def test_settings_and_the_test_are_there_to_compare_runs(logged):
    directory, _, _ = logged
    found = events(directory)
    ((_, text),) = found["flags"]
    assert b"| epsilon | `8.0` |" in text.item() and b"| boundary | `[1, 2]` |" in text.item()
    tensorboard.write_test(directory, 4, {"clean_accuracy": 0.5})
    assert events(directory / "test") == {"epoch/clean_accuracy": [(4, np.float32(0.5))]}
    # TensorBoard's own reader of the table.
    (file,) = directory.glob("*tfevents*")
    values = [
        value
        for record in tf.data.TFRecordDataset(str(file))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    infos = [metadata.parse_session_start_info_plugin_data(one.metadata.plugin_data.content)
             for one in values]  # fmt: skip
    (info,) = infos
    assert info.group_name == str(directory.parent)
    assert info.hparams["epsilon"].number_value == 8 and info.hparams["nesterov"].bool_value


def test_images_per_second_is_batch_over_seconds_a_step(tmp_path):
    clock = Clock()

    class Ticks(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.now += 0.5

        def on_test_begin(self, logs=None):
            clock.now += 100

    board = TensorBoard(tmp_path, batch_size=BATCH, every_steps=2, clock=clock)
    fit(compiled(), [Ticks(), board])
    train = events(tmp_path / "train")
    for tag in ("step/images_per_second", "epoch/images_per_second"):
        assert {float(v) for _, v in train[tag]} == {BATCH / 0.5}


def test_after_a_resume_tensorboard_shows_every_step_once(tmp_path):
    def board():
        images, labels = next(iter(dataset()))
        grid = PictureGrid(images[:1], labels[:1], lower)
        return TensorBoard(tmp_path, batch_size=BATCH, every_steps=1, pictures=grid)

    fit(compiled(), [board()], epochs=3)
    resumed = compiled()
    resumed.optimizer.iterations.assign(STEPS)  # the checkpoint was that of the first epoch
    records = Records()
    fit(resumed, [records, board()], epochs=2, initial_epoch=1)
    for run, tags in {
        "train": {"step/loss": range(1, 9), "epoch/loss": (4, 8)},
        "validation": {"epoch/loss": (4, 8), "attack/pictures": (4, 8)},
    }.items():
        # The reader of TensorBoard itself; its other one, in Rust, goes by the order of steps.
        reader = plugin_event_accumulator.EventAccumulator(str(tmp_path / run))
        reader.Reload()
        for tag, steps in tags.items():
            assert [event.step for event in reader.Tensors(tag)] == list(steps), tag
    last = events(tmp_path / "train")["step/loss"][-1]
    assert last == (8, np.float32(records.batches[-1]))


def test_an_epoch_is_on_disk_when_the_next_callback_runs(tmp_path):
    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            written = events(tmp_path / "validation")["epoch/loss"]
            assert written[-1] == (STEPS * (epoch + 1), np.float32(logs["val_loss"]))

    fit(compiled(), [TensorBoard(tmp_path, batch_size=BATCH), Looks()])


def test_only_the_chief_writes(tmp_path):
    trainer = compiled()
    extended = types.SimpleNamespace(should_save_summary=False)
    worker = types.SimpleNamespace(
        distribute_strategy=types.SimpleNamespace(extended=extended),
        network=trainer.network,
        optimizer=trainer.optimizer,
    )
    board = TensorBoard(tmp_path, batch_size=BATCH, every_steps=1)
    board.set_model(worker)
    board.on_train_begin()
    board.on_epoch_begin(0)
    board.on_train_batch_end(0, {"loss": 1.0})
    board.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
    board.on_train_end()
    assert list(tmp_path.iterdir()) == []


def test_two_replicas_write_like_one(tmp_path):
    with distribution.strategy("mirrored").scope():
        trainer = compiled(Scale(name="scale"))
    records = Records()
    board = TensorBoard(tmp_path, batch_size=BATCH, every_steps=4)
    fit(trainer, [StopOnNaN(STEPS), records, board], epochs=1)
    train = events(tmp_path / "train")
    assert train["epoch/loss"] == [(STEPS, np.float32(records.epochs[0]["loss"]))]
    assert [step for step, _ in train["trained_activation/scale/factor"]] == [0, STEPS]


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 20, 1), (64, 224, 3)])
def test_the_grid_holds_the_enlarged_images_and_the_amplified_perturbation(shape):
    random = np.random.default_rng(1)
    clean = random.integers(3, 252, [2, *shape]).astype(np.float32)
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
            assert min(right - left, bottom - top) >= 64
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


def test_the_grid_shows_the_attack_with_the_same_seed_every_time():
    seeds = []

    def attack(network, images, labels, seed):
        seeds.append(tuple(seed.numpy()))
        return images + 1

    images, labels = next(iter(dataset()))
    grid = PictureGrid(images[:2], labels[:2], attack, seed=5)
    network = compiled().network
    first, second = grid(network), grid(network)
    assert (first == second).all()
    PictureGrid(images[:2], labels[:2], attack, seed=6)(network)
    assert seeds[0] == seeds[1] != seeds[2]


def test_pictures_refuse_what_they_cannot_draw():
    with pytest.raises(ValueError, match=r"1 or 3\]; got \[2, 8, 8, 2\]"):
        PictureGrid(np.zeros([2, 8, 8, 2]), np.zeros(2), lower)
    with pytest.raises(ValueError, match=r"labels \[3\] for 2 images"):
        PictureGrid(np.zeros([2, 8, 8, 1]), np.zeros(3), lower)


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


def test_ticks_are_round_and_inside():
    for low, high in [(-4, 4), (-0.3, 1.1), (0, 1e-3), (-250.0, 900.0)]:
        ticks = curves.round_ticks(low, high)
        assert 2 <= len(ticks) <= 7
        assert all(low <= tick <= high for tick in ticks)
        for gap in np.diff(ticks):
            assert re.fullmatch(r"[125]\.0+e[+-]\d+", f"{gap:.6e}")
