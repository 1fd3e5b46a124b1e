"""The progress of an evaluation only ever goes forward."""

import io
import re

from sat_tf.evaluation.progress import Countdown


def test_the_percentage_never_falls_and_ends_at_the_whole():
    now, stream = [0.0], io.StringIO()
    progress = Countdown("pgd", 4 * 10, lambda done: f"{done // 10}/4 images", stream=stream,
                         clock=lambda: now[0])  # fmt: skip
    # Four slots work on four images of ten steps; a report of what is in flight comes late.
    for flying, finished in [(12, 0), (28, 2), (12, 0), (16, 1), (4, 1), (0, 0)]:
        now[0] += 60
        progress.in_flight(flying)
        for _ in range(finished):
            now[0] += 60
            progress.advance(10)
    shown = [int(percent) for percent in re.findall(r"(\d+) %", stream.getvalue())]
    assert shown == sorted(shown) and shown[-1] == 100
    assert shown[0] == 30


def test_the_time_left_is_what_the_rest_takes_at_the_pace_so_far():
    now, stream = [0.0], io.StringIO()
    progress = Countdown("pgd", 8, str, stream=stream, clock=lambda: now[0])
    for done in (1, 1, 4, 2):
        now[0] += 60
        progress.advance(done)
    left = re.findall(r"  ([\d:]+) left", stream.getvalue())
    assert left == ["7:00", "6:00", "1:00", "0:00"]  # 60 / 1 * 7, 120 / 2 * 6, 180 / 6 * 2, none
