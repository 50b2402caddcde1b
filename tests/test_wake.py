"""How a reader learns of new records: every way, on real files."""

import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pspf import errors
from pspf.wake import choose
from pspf.wake.base import Waiter

WAYS = ["inotify", "watchfiles", "poll"] if sys.platform.startswith("linux") else ["watchfiles", "poll"]
LONG_S = 10.0
SHORT_S = 0.25


@pytest.fixture(params=WAYS)
def waiter(request: pytest.FixtureRequest) -> Iterator[Waiter]:
    if request.param == "watchfiles":
        pytest.importorskip("watchfiles")
    made = choose.waiter(request.param)
    yield made
    made.close()


def publish(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, os.urandom(64), 0)
    os.close(fd)


def settle(waiter: Waiter) -> None:
    """Take what is reported of the past."""
    time.sleep(0.05)  # past the time in which a file counts as fresh
    for _ in range(50):
        if waiter.wait(SHORT_S) == "timeout":
            return
    raise AssertionError("it never comes to rest")


def test_a_publish_wakes(waiter: Waiter, scratch_dir: Path) -> None:
    commit = scratch_dir / "commit"
    publish(commit)
    waiter.add(str(commit))
    settle(waiter)
    timer = threading.Timer(0.1, publish, [commit])
    timer.start()
    began = time.monotonic()
    assert waiter.wait(LONG_S) == "changed"
    assert time.monotonic() - began < 5
    assert waiter.changed is None or waiter.changed == {str(commit)}
    timer.join()


def test_a_publish_between_two_waits_is_not_lost(waiter: Waiter, scratch_dir: Path) -> None:
    commit = scratch_dir / "commit"
    publish(commit)
    waiter.add(str(commit))
    settle(waiter)
    publish(commit)
    time.sleep(0.1)
    assert waiter.wait(LONG_S) == "changed"


def test_without_a_change_it_times_out(waiter: Waiter, scratch_dir: Path) -> None:
    commit = scratch_dir / "commit"
    publish(commit)
    waiter.add(str(commit))
    settle(waiter)
    began = time.monotonic()
    assert waiter.wait(0.2) == "timeout"
    assert 0.15 < time.monotonic() - began < 5


def test_a_file_that_is_not_there_yet_is_waited_for(waiter: Waiter, scratch_dir: Path) -> None:
    commit = scratch_dir / "topics" / "t" / "0" / "commit"
    waiter.add(str(commit))
    settle(waiter)
    commit.parent.mkdir(parents=True)
    time.sleep(0.1)
    publish(commit)
    assert waiter.wait(LONG_S) == "changed"
    settle(waiter)
    publish(commit)
    assert waiter.wait(LONG_S) == "changed"


def test_a_directory_that_comes_under_its_name_by_rename_is_seen(waiter: Waiter, scratch_dir: Path) -> None:
    commit = scratch_dir / "0" / "commit"
    waiter.add(str(commit))
    settle(waiter)
    (scratch_dir / ".new").mkdir()
    publish(scratch_dir / ".new" / "commit")
    (scratch_dir / ".new").rename(scratch_dir / "0")
    assert waiter.wait(LONG_S) == "changed"
    settle(waiter)
    publish(commit)
    assert waiter.wait(LONG_S) == "changed"


def test_names_that_come_and_go_in_a_directory_wake(waiter: Waiter, scratch_dir: Path) -> None:
    waiter.add(str(scratch_dir))
    settle(waiter)
    (scratch_dir / "1").mkdir()
    assert waiter.wait(LONG_S) == "changed"
    settle(waiter)
    (scratch_dir / "1").rename(scratch_dir / "2")
    assert waiter.wait(LONG_S) == "changed"
    settle(waiter)
    (scratch_dir / "2").rmdir()
    assert waiter.wait(LONG_S) == "changed"


def test_a_deleted_file_wakes_although_it_is_open(waiter: Waiter, scratch_dir: Path) -> None:
    commit = scratch_dir / "commit"
    publish(commit)
    with commit.open("rb"):
        waiter.add(str(commit))
        settle(waiter)
        commit.unlink()
        assert waiter.wait(LONG_S) == "changed"


def test_a_reader_that_goes_away_is_noticed(waiter: Waiter, scratch_dir: Path) -> None:
    publish(scratch_dir / "commit")
    waiter.add(str(scratch_dir / "commit"))
    settle(waiter)
    reads, writes = os.pipe()
    try:
        assert waiter.wait(0.05, also_fd=writes) == "timeout"
        timer = threading.Timer(0.1, os.close, [reads])
        timer.start()
        assert waiter.wait(LONG_S, also_fd=writes) == "hangup"
        timer.join()
        assert waiter.wait(0.05) == "timeout"
    finally:
        os.close(writes)


def test_another_thread_can_wake_it(waiter: Waiter, scratch_dir: Path) -> None:
    waiter.add(str(scratch_dir))
    settle(waiter)
    timer = threading.Timer(0.1, waiter.wake)
    timer.start()
    assert waiter.wait(LONG_S) == "changed"
    assert waiter.changed is None
    timer.join()


def test_a_wait_does_not_keep_a_processor_busy(waiter: Waiter, scratch_dir: Path) -> None:
    commit = scratch_dir / "commit"
    publish(commit)
    waiter.add(str(commit))
    settle(waiter)
    before = time.process_time()
    waiter.wait(1.0)
    assert time.process_time() - before < 0.3


def test_no_inotify_instance_left_falls_back_to_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    from pspf.wake import inotify

    def refuse(self: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.delenv("PSPF_WAKE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(inotify.InotifyWaiter, "__init__", refuse)
    made = choose.waiter()
    made.close()
    assert type(made).__name__ == "PollingWaiter"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux'")
def test_no_watch_left_is_made_up_for_by_looking(monkeypatch: pytest.MonkeyPatch, scratch_dir: Path) -> None:
    import ctypes

    from pspf.wake.inotify import InotifyWaiter

    def refuse(fd: int, path: bytes, mask: int) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    commit = scratch_dir / "commit"
    publish(commit)
    made = InotifyWaiter()
    made._add_watch = refuse  # type: ignore[assignment]
    made.add(str(commit))
    settle(made)
    publish(commit)
    assert made.wait(LONG_S) == "changed" and made.changed == {str(commit)}
    made.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux'")
def test_a_full_queue_means_look_at_everything(scratch_dir: Path) -> None:
    from pspf.wake.inotify import _EVENT, IN_Q_OVERFLOW, InotifyWaiter

    made = InotifyWaiter()
    made.add(str(scratch_dir))
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    real, made._fd = made._fd, reads
    os.write(writes, _EVENT.pack(-1, IN_Q_OVERFLOW, 0, 0))
    assert made._take_events()
    made._fd = real
    assert made.changed is None
    made.close()
    os.close(reads)
    os.close(writes)


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSPF_WAKE", "poll")
    made = choose.waiter()
    made.close()
    assert type(made).__name__ == "PollingWaiter"
    monkeypatch.setenv("PSPF_WAKE", "telepathy")
    with pytest.raises(errors.BadConfig) as caught:
        choose.waiter()
    assert "inotify, watchfiles, poll" in caught.value.hint and caught.value.exit_code == 78
