"""An evaluation that dies in mid-sweep, as by a kill."""

import pytest

from sat_tf.evaluation import sweep


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def kill(run, num_verdicts):
    """Calls `run`, which dies before it notes the verdict after so many."""
    noted, note = [], sweep.Sweep.note

    def note_until_killed(self, *arguments):
        if len(noted) == num_verdicts:
            raise Killed
        noted.append(1)
        note(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.Sweep, "note", note_until_killed)
        with pytest.raises(Killed):
            run()
