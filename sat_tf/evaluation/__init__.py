"""The parts of `sat_tf.evaluate`: a plan of sweeps, their verdicts, what is kept of them."""
