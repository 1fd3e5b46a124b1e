"""Every figure is in TensorBoard at its step, once."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.plugins.hparams import metadata

from sat_tf.callbacks import PictureGrid, StopOnNaN, TensorBoard, tensorboard
from sat_tf.runs import distribution
from tests.watched import BATCH, STEPS, Clock, Scale, Trainer, compiled, dataset, fit, lower


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
            clock.now += (9, 0.5, 0.25, 0.75)[batch]  # the first of an epoch does not count

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
        return TensorBoard(
            tmp_path, batch_size=BATCH, every_steps=3, pictures=grid, settings={"epsilon": 8.0}
        )

    fit(compiled(Scale(name="scale")), [board()], epochs=3)
    resumed = compiled(Scale(name="scale"))
    resumed.optimizer.iterations.assign(STEPS)  # the checkpoint was that of the first epoch
    records = Records()
    fit(resumed, [records, board()], epochs=2, initial_epoch=1)
    for run, tags in {
        "train": {
            "step/loss": (3, 6),  # every third step of the run, not of a process
            "epoch/loss": (4, 8),
            "activation/curve": (0, 4, 8),
            "trained_activation/scale/factor": (0, 4, 8),
        },
        "validation": {"epoch/loss": (4, 8), "attack/pictures": (4, 8)},
    }.items():
        # The reader of TensorBoard itself; its other one, in Rust, goes by the order of steps.
        reader = plugin_event_accumulator.EventAccumulator(str(tmp_path / run))
        reader.Reload()
        for tag, steps in tags.items():
            assert [event.step for event in reader.Tensors(tag)] == list(steps), tag
    last = events(tmp_path / "train")["step/loss"][-1]
    assert last == (6, np.float32(records.batches[6 - STEPS - 1]))
    assert len(events(tmp_path)["flags"]) == 1  # a run has one row in the table of settings


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


def test_a_run_that_died_before_its_first_checkpoint_is_written_from_its_beginning(tmp_path):
    layer = Scale(name="scale")
    layer.build([None, 4])
    strategy = types.SimpleNamespace(extended=types.SimpleNamespace(should_save_summary=True))
    optimizer = types.SimpleNamespace(iterations=keras.Variable(0, dtype="int64"))
    model = types.SimpleNamespace(distribute_strategy=strategy, optimizer=optimizer)
    for step, written in ((0, 1), (0, 2), (4, 2)):  # what was there is void, but at step 4
        optimizer.iterations.assign(step)
        board = TensorBoard(tmp_path, batch_size=1, settings={"seed": 0}, activations=[layer])
        board.set_model(model)
        board.on_train_begin()
        board.on_train_end()
        assert len(events(tmp_path / "train")["activation/curve"]) == written
        assert len(events(tmp_path)["flags"]) == written
