"""Laws of the progress line: times left, speed, width, and what a file gets."""

import io
import re
import types

import pytest

from sat_tf.callbacks import Progress
from sat_tf.training import watchers
from tests.watched import BATCH, STEPS, Clock, compiled, fit


class Terminal(io.StringIO):
    def isatty(self):
        return True


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
    clock.now += 2.0
    progress.on_train_batch_end(0, {"loss": 1.0})  # the speed is still that of the epoch before
    assert progress.seconds_left() == (9 * 2 + 10, 9 * 2 + 10 + 10 * 2 + 10)


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


def test_what_the_first_steps_build_is_shown_and_expected_of_no_later_epoch(monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    clock, stream = Clock(), Terminal()
    progress = Progress(
        epochs=3, steps_per_epoch=10, batch_size=6, test_work=3.0, stream=stream, clock=clock
    )
    logs = {"loss": 1.5, "val_clean_accuracy": 0.5}
    for epoch in range(3):
        for phase, steps, seconds, graph in (("train", 10, 2, 500), ("test", 5, 1, 100)):
            if phase == "train":
                progress.on_epoch_begin(epoch)
            else:
                progress.on_test_begin()
            waits = stream.getvalue().rpartition("\x1b[K")[2]
            assert ("building the first step" in waits) == (epoch == 0), waits
            ended = getattr(progress, f"on_{phase}_batch_end")
            for step in range(steps):
                clock.now += seconds + (graph if epoch == step == 0 else 0)
                ended(step, logs)
        progress.on_test_end()
        progress.on_epoch_end(epoch, logs)
        shown = stream.getvalue().rpartition("\x1b[K")[2]
        left = (2 - epoch) * (10 * 2 + 5 * 1) + 3 * 5 * 1
        assert shown.endswith(f"| {left // 60}:{left % 60:02d} left\n")
        took = "10:25 (10:00 to build its graphs)" if epoch == 0 else "0:25"
        assert shown.startswith(f"epoch {epoch + 1}/3 in {took} | 3 images/s")


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
    stream = io.StringIO()
    progress = progress_of(clock, stream, initial_step=7)
    progress.on_epoch_begin(1)
    assert stream.getvalue() == "epoch 2/3 continues after step 7\n"
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
    (bar,) = re.findall(r"validation 2/5 \[(#*\.*)\]", stream.getvalue())
    assert bar.count("#") == len(bar) * 2 // 5 > 0


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


def test_without_an_attack_the_accuracy_of_training_is_called_clean():
    info = types.SimpleNamespace(steps_per_epoch=lambda batch_size: 10)
    logs = {"loss": 1.25, "adversarial_accuracy": 0.25, "val_adversarial_accuracy": 0.5}
    for attack, called in (
        ("none", "clean"),
        ("pgd", "adversarial"),
        ("pgd-random", "adversarial"),
    ):
        recipe = types.SimpleNamespace(attack=attack, epochs=3, batch_size=6, test_steps=0)
        line = watchers.progress(recipe, info)
        clock, stream = Clock(), Terminal()
        shown = progress_of(clock, stream)
        shown.training_images = line.training_images
        run_epoch(shown, clock, 0, logs=logs)
        assert f"train: loss 1.2500, {called} 25.0 %" in stream.getvalue()
        assert f"loss 1.2500  {called} 25.0 %" in stream.getvalue()  # the line within the epoch
        assert "validation: adversarial 50.0 %" in stream.getvalue()


def test_the_time_of_an_epoch_is_its_own_and_not_the_run_s():
    clock, stream = Clock(), io.StringIO()
    progress = progress_of(clock, stream)
    clock.now += 1000  # before the first epoch begins
    for epoch, closing in enumerate((40, 5)):
        run_epoch(progress, clock, epoch, closing=closing)
    starts = [line.partition(" |")[0] for line in stream.getvalue().splitlines() if " in " in line]
    assert starts == ["epoch 1/3 in 1:00", "epoch 2/3 in 0:25"]


def test_progress_works_inside_fit():
    stream = io.StringIO()
    fit(
        compiled(),
        [Progress(epochs=2, steps_per_epoch=STEPS, batch_size=BATCH, stream=stream)],
    )
    lines = stream.getvalue().splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
