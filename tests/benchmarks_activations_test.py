"""The activations' benchmark takes its ratios round by round, over relu."""

import numpy as np
import tensorflow as tf

from benchmarks import activations
from benchmarks.timing import Times


def test_ratios_are_taken_within_a_round_before_the_median():
    load = np.array([1.0, 10.0, 3.0])  # what else the machine does falls on both alike
    times = {
        "relu": Times(0.1 * load, np.ones(3), []),
        "swish": Times(0.12 * load, np.array([1.3, 1.1, 1.2]), []),
    }
    *_, swish = activations.report(times, {"relu": 100.0, "swish": 150.0})
    assert swish == ["swish", "360.0", "1.200", "1.200 to 1.200", "1.200", "150", "1.500"]
    header, *rows = activations.report(times, {})  # with --nomemory
    assert "MiB" not in header and [len(row) for row in rows] == [len(header)] * 2


def test_working_memory_is_that_of_the_step_alone():
    held = tf.ones([2**26])  # 256 MiB that the step finds and that are not its own
    found = activations.working_memory(lambda: tf.reduce_sum(tf.zeros([2**27]) + held[0]).numpy())
    # Wide below: what earlier tests left is freed meanwhile, by as much as a busy machine was late.
    assert np.isnan(found) or 256 < found < 1300
