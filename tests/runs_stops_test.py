"""Ctrl-C and SIGTERM are handled otherwise inside a block, and as before once it is over."""

import signal

import pytest

from sat_tf import runs


def test_stops_are_handled_inside_the_block_and_as_before_after_it():
    heard, outside = [], []

    def earlier(number, frame):
        outside.append(number)

    with runs.handling_stops(earlier):
        with pytest.raises(KeyError), runs.handling_stops(lambda n, _: heard.append(n)) as before:
            assert before == {number: earlier for number in runs.STOPS}
            for number in runs.STOPS:
                signal.raise_signal(number)
            raise KeyError  # whatever ends the block
        assert heard == [signal.SIGINT, signal.SIGTERM] and not outside
        for number in runs.STOPS:
            signal.raise_signal(number)
        assert len(heard) == 2 and outside == [signal.SIGINT, signal.SIGTERM]


def test_a_stop_is_no_error_that_one_may_pass_over():
    with pytest.raises(runs.Interrupted) as stop:
        try:
            raise runs.Interrupted("stopped", signal.SIGTERM)
        except Exception as error:  # as of a damaged file
            pytest.fail(str(error))
    assert stop.value.signal_number == signal.SIGTERM and str(stop.value) == "stopped"
