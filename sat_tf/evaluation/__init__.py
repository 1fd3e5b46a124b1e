"""The parts of `sat_tf.evaluate`: slots, passes, verdicts, reports."""
