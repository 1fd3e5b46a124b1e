"""The images of an evaluation shared among workers, of which one puts the verdicts together.

Every worker judges all clean images and runs all attacks on its share, every n-th image, as a
process of its own would: what is done to an image depends on nothing but the image, so workers need
not meet. Worker 0 keeps its verdicts in the report's file, `report.verdicts.npz`, the others in
`report.worker-1.verdicts.npz` and so on. Worker 0 takes these over when all are through, removes
them, and goes on as the only worker, for which nothing is left.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from sat_tf.evaluation import parts
from sat_tf.runs import distribution

_LOOK, _SAY = 1.0, 30.0  # seconds between two looks for workers' files, between two lines of them
_ALL = [0, 1]  # of a file that holds what all workers found: worker 0 of 1 is through


@dataclasses.dataclass(frozen=True)
class Worker:
    """One of the processes that share an evaluation; by default the only one.

    Attributes:
      addresses: of all workers, for messages: nothing is sent.
      index: of this one.
      timeout: seconds that worker 0 waits for another one from which nothing new comes.
    """

    addresses: Sequence[str] = ("",)
    index: int = 0
    timeout: float = 0.0

    @classmethod
    def of(cls, flags: Any) -> "Worker":
        """Finds out which worker this process is.

        Raises:
          ValueError: a cluster that is not there; flags that do not go together.
        """
        distribution.find_cluster(flags.cluster, flags.strategy)
        if flags.strategy != "multi_worker":
            return cls()
        if flags.overwrite:
            raise ValueError(
                "--overwrite does not go with --strategy=multi_worker, where a worker could take "
                "old verdicts of another one for new; remove report.verdicts.npz and all "
                "report.worker-*, or give another --json"
            )
        if flags.worker_timeout <= flags.save_every:
            raise ValueError(
                f"--worker_timeout={flags.worker_timeout:g} is not longer than --save_every="
                f"{flags.save_every:g}, so a worker at work would be taken for a silent one; give "
                "it several times as many seconds"
            )
        return cls(*distribution.cluster(), flags.worker_timeout)

    def share(self, num_images: int) -> np.ndarray:
        """Returns which images this worker attacks, bool [N]: neighbours go to different ones."""
        return np.arange(num_images) % len(self.addresses) == self.index

    def place(self, report: pathlib.Path) -> pathlib.Path:
        """Returns beside which name this worker keeps its files, of the report of all."""
        return parts.place_of(report, self.index)

    def attack(self, session: Any, report: pathlib.Path) -> None:
        """Runs all attacks on this worker's share, and notes in its file when it is through.

        The only worker leaves that to `Session.run`, unless there are files of others.

        Args:
          session: a `Session` that is prepared and keeps its files beside `place(report)`.
          report: where the report of all goes.

        Raises:
          ValueError: another worker's file is damaged, of another evaluation, or still written
            where there is to be one worker.
        """
        own, there, num_workers = self.place(report), parts.places_of(report), len(self.addresses)
        if num_workers == 1 and not there:
            return
        if num_workers == 1:  # which takes their files over, or begins anew
            parts.require_idle(there)
        store = session.store
        begun_anew = num_workers == 1 and session.options.overwrite
        if begun_anew or self._is_over(store, report):
            parts.remove([own] if self.index else there)
            return
        share = self.share(len(store.clean.labels))
        for place in (report, *there):
            if place != own:  # what was found before with another number of workers
                parts.take(store, parts.read(store, place), share)
        store.verdicts.through = None  # of another number of workers, or of an earlier start
        store.save()  # at once, for the others to see whose it is
        print(
            f"worker {self.index} of {num_workers} has {share.sum()} of {len(share)} images",
            flush=True,
        )
        session.attack(share)
        if self.index:
            store.verdicts.through = [self.index, num_workers]
            store.close()

    def collect(self, session: Any, report: pathlib.Path) -> None:
        """Waits for the other workers' files, as worker 0, and takes over what is in them.

        Raises:
          ConnectionError: a worker from which nothing new came in time; what is there is left.
          ValueError: a file is damaged, or of another evaluation.
        """
        if len(self.addresses) == 1 and not parts.places_of(report):
            return
        store = session.store
        if store.verdicts.through == _ALL:
            return
        self._wait(store, report)
        there = parts.places_of(report)
        for place in there:
            part = parts.read(store, place)
            if part is None:  # images of a worker that was killed before it had a verdict
                continue
            parts.take(store, part, np.ones(len(store.clean.labels), bool))
            for ours, theirs in zip(store.plan.sweeps, part.sweeps, strict=True):
                ours.seconds += theirs.seconds
                ours.slot_steps += theirs.slot_steps
        # Saved before they go: a kill in between leaves files that the next start removes.
        store.verdicts.through = _ALL
        store.close()
        parts.remove(there)

    def _is_over(self, store, report):
        """Tells whether worker 0 has taken over what all found."""
        if self.index == 0:
            return store.verdicts.through == _ALL
        found = parts.read(store, report)
        return found is not None and found.file.through == _ALL

    def _wait(self, store, report):
        """Returns once all others are through."""
        stamps = dict.fromkeys(range(1, len(self.addresses)))  # of those that are not
        said = time.monotonic()
        news = dict.fromkeys(stamps, said)
        while True:
            now = time.monotonic()
            for worker, seen in list(stamps.items()):
                place = parts.place_of(report, worker)
                if (stamp := parts.stamp(place)) != seen:
                    stamps[worker], news[worker] = stamp, now
                    part = parts.read(store, place)
                    if part and part.file.through == [worker, len(self.addresses)]:
                        del stamps[worker]
            if not stamps:
                return
            names = {one: f"worker {one} ({self.addresses[one]})" for one in stamps}
            silent = [name for one, name in names.items() if now - news[one] > self.timeout]
            if silent:
                raise ConnectionError(
                    f"{', '.join(silent)} wrote nothing beside {report} for {self.timeout:g} "
                    "seconds; start it and worker 0 with the same command, --json in a place that "
                    "all see: what each has found is kept and goes on"
                )
            if now - said >= _SAY:
                said = now
                print(f"waiting for {', '.join(names.values())}", file=sys.stderr, flush=True)
            time.sleep(_LOOK)
