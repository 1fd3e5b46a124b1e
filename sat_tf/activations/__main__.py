"""Runs the table and the picture: `python -m sat_tf.activations`."""

from sat_tf.activations import table

if __name__ == "__main__":
    table.main()
