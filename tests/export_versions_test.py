"""A server that polls the directory sees whole versions only, whenever an export is killed."""

import os
import signal
import threading
import time

import pytest
from hypothesis import given, settings, strategies

from export import versions

FILES = 20
SCRIPT = f"""
import pathlib, sys
from export import versions

directory = pathlib.Path(sys.argv[1])
while True:
    with versions.exclusive(directory):
        target = directory / str(versions.next_version(directory))
        with versions.publishing(target) as partial:
            partial.mkdir()
            for index in range({FILES}):
                (partial / str(index)).write_text("whole")
        for old in list(versions.present(directory).values())[:-1]:
            versions.remove(old)
"""


def make(partial):
    partial.mkdir()
    for index in range(FILES):
        (partial / str(index)).write_text("whole")


def numbered(directory):
    """Lists what a server looks at: names that are whole numbers."""
    return [path for path in directory.iterdir() if path.name.isdecimal()]


def is_whole(version):
    """Tells if a version has all its bytes; None where it has left meanwhile."""
    try:
        found = [(version / str(index)).read_text() for index in range(FILES)]
    except FileNotFoundError:
        found = []
    return (found == FILES * ["whole"]) or (None if not version.exists() else False)


def test_a_polling_server_never_sees_half_a_version(tmp_path):
    seen, stop = [], threading.Event()

    def poll():
        while not stop.is_set():
            seen.extend((int(path.name), is_whole(path)) for path in numbered(tmp_path))

    poller = threading.Thread(target=poll)
    poller.start()
    for number in range(1, 101):
        with versions.publishing(tmp_path / str(number)) as partial:
            make(partial)
        if number > 2:
            versions.remove(tmp_path / str(number - 2))
    stop.set()
    poller.join()
    assert len({number for number, whole in seen if whole}) > 10
    assert not [number for number, whole in seen if whole is False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "99"]


def test_kill_minus_9_leaves_whole_versions_and_the_next_export_clears_up(tmp_path, forked):
    leftovers = set()
    for part in ("partial", "removed", "partial", "removed"):
        process = forked.start("-c", SCRIPT, tmp_path)
        deadline = time.monotonic() + 60
        while not (hidden := list(tmp_path.glob(f".*.{part}-*"))) or not numbered(tmp_path):
            assert process.poll() is None and time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        leftovers |= {path.name for path in hidden if path.exists()}
        assert numbered(tmp_path) and all(is_whole(version) for version in numbered(tmp_path))
    assert leftovers, "every export was over before it was killed"
    (tmp_path / ".7.other").touch()
    with versions.exclusive(tmp_path):
        found = [path.name for path in tmp_path.iterdir() if not path.name.isdecimal()]
        assert sorted(found) == [".7.other", ".export.lock"]
    assert not (tmp_path / ".export.lock").exists()


def test_the_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    events, sync = [], os.fsync

    def recorded(descriptor):
        events.append((os.fstat(descriptor).st_ino, (tmp_path / "1").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    with versions.publishing(tmp_path / "1") as partial:
        make(partial)
    version = tmp_path / "1"
    before = {inode for inode, named in events if not named}
    assert before == {path.stat().st_ino for path in (version, *version.iterdir())}
    assert [inode for inode, named in events if named] == [tmp_path.stat().st_ino]


def test_a_block_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), versions.publishing(tmp_path / "1") as partial:
        make(partial)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_of_two_exports_at_once_the_second_is_refused_before_it_begins(tmp_path):
    with versions.exclusive(tmp_path):
        with pytest.raises(ValueError, match="another process is exporting into .*; wait until"):
            with versions.exclusive(tmp_path):
                pass
    with versions.exclusive(tmp_path / "new" / "one"):
        assert (tmp_path / "new" / "one").is_dir()


def test_versions_are_counted_as_a_server_counts(tmp_path):
    assert versions.next_version(tmp_path / "new") == 1
    for name in ("2", "10", "9", ".11.partial-x", "12a", "models.config"):
        (tmp_path / name).mkdir()
    assert list(versions.present(tmp_path)) == [2, 9, 10]
    assert versions.next_version(tmp_path) == 11


def make_versions(directory, numbers):
    for number in numbers:
        (directory / str(number)).mkdir(parents=True)
        (directory / str(number) / "saved_model.pb").touch()


@settings(deadline=None)  # of a disk that others use, too
@given(
    numbers=strategies.sets(strategies.integers(1, 12), min_size=1),
    needed=strategies.sets(strategies.integers(1, 12)),
    num_kept=strategies.integers(0, 6),
)
def test_the_lowest_versions_go_and_what_is_needed_stays(
    tmp_path_factory, numbers, needed, num_kept
):
    directory = tmp_path_factory.mktemp("served")
    make_versions(directory, numbers)
    gone = {int(path.name) for path in versions.surplus(directory, num_kept, needed)}
    kept = numbers - gone
    assert gone <= numbers and not gone & needed
    if num_kept == 0:
        assert not gone
    else:
        assert len(kept) == max(min(num_kept, len(numbers)), len(numbers & needed))
        assert max(gone, default=0) <= min(kept - needed, default=13)


def test_what_is_no_savedmodel_is_neither_counted_nor_removed(tmp_path):
    make_versions(tmp_path, (2, 3, 4))
    (tmp_path / "1").mkdir()
    assert versions.surplus(tmp_path, 2, set()) == [tmp_path / "2"]
