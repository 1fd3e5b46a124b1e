"""A line that replaces itself leaves nothing of what stood there before."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_tf.evaluation.progress import Countdown
from sat_tf.runs.line import Line, duration

COLUMNS = 20


class Terminal(io.StringIO):
    """Shows what a terminal of 20 columns would: it wraps, returns and erases to the line's end."""

    def isatty(self):
        return True

    def rows(self):
        rows, column = [""], 0
        text = self.getvalue().replace("\x1b[K", "\x00")
        for character in text:
            if character == "\r":
                column = 0
            elif character == "\x00":
                rows[-1] = rows[-1][:column]
            elif character == "\n":
                rows, column = [*rows, ""], 0
            else:
                if column == COLUMNS:
                    rows, column = [*rows, ""], 0
                rows[-1] = rows[-1][:column] + character + rows[-1][column + 1 :]
                column += 1
        return rows


@pytest.fixture(autouse=True, scope="module")
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(COLUMNS))
        yield


_LONG = st.text("abc", max_size=60)
_SHORT = st.text("xyz", min_size=1, max_size=COLUMNS - 1)
_CALLS = st.lists(
    st.tuples(st.just("draw"), _LONG)
    | st.tuples(st.just("write"), _SHORT)
    | st.tuples(st.sampled_from(["keep", "erase"])),
    max_size=8,
)


@given(_CALLS)
def test_a_terminal_shows_what_was_written_and_the_last_thing_drawn(calls):
    terminal, shown, drawn = Terminal(), [], None
    line = Line(terminal)
    for name, *text in calls:
        getattr(line, name)(*text)
        if name == "draw":
            drawn = text[0][: COLUMNS - 1]
        else:
            shown += text if name == "write" else [drawn] if name == "keep" and drawn else []
            # An empty line that is kept is a line too.
            shown += [""] if name == "keep" and drawn == "" else []
            drawn = None
    assert terminal.rows() == [*shown, drawn or ""]


@given(_CALLS)
def test_a_file_gets_every_text_as_a_line_of_its_own(calls):
    file = io.StringIO()
    line = Line(file)
    for name, *text in calls:
        getattr(line, name)(*text)
    assert file.getvalue().splitlines() == [text for _, *texts in calls for text in texts]


@pytest.mark.parametrize("stream, seconds", [(Terminal(), 0.5), (io.StringIO(), 30.0)])
def test_a_line_is_due_twice_a_second_on_a_terminal_and_every_30_seconds_in_a_file(stream, seconds):
    now = [100.0]
    line = Line(stream, lambda: now[0])
    for draw in (line.draw, line.write):
        now[0] += 0.75 * seconds
        assert not line.is_due()
        now[0] += 0.25 * seconds
        assert line.is_due()
        draw("a")
        assert not line.is_due()


def test_an_evaluation_s_line_is_cut_at_the_width_and_taken_away():
    now, terminal = [0.0], Terminal()
    countdown = Countdown(
        "an attack of a long name",
        4,
        lambda done: f"{done}/4",
        stream=terminal,
        clock=lambda: now[0],
    )
    for _ in range(3):
        now[0] += 60
        countdown.advance(1)
        assert terminal.rows() == ["an attack of a long"]
    countdown.close()
    assert terminal.rows() == [""]


@given(st.floats(0, 1e7))
def test_a_duration_is_read_as_the_nearest_whole_seconds(seconds):
    days, _, clock = duration(seconds).rpartition(" days ")
    parts = [int(part) for part in clock.split(":")]
    total = int(days.replace(",", "") or 0) * 24 * 3600
    total += sum(part * 60**power for power, part in enumerate(parts[::-1]))
    assert abs(total - seconds) <= 0.5
