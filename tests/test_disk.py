"""The real disk's own bookkeeping: what a forked child keeps, who is told of a lock that does not come."""

import contextlib
import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import pytest

from pspf.disk import macos, waiting
from pspf.disk.real import CREATE, Disk

# -- waiting for a lock


class Told(io.StringIO):
    """Standard error that counts what is said of waiting."""

    def waits(self) -> int:
        return self.getvalue().count("waiting for a lock")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    heard = Told()
    monkeypatch.setattr(waiting, "sys", SimpleNamespace(stderr=heard))
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.0)
    monkeypatch.setattr(waiting, "_LOOK_S", 0.01, raising=False)
    return heard


def wait_for(condition: Callable[[], bool]) -> None:
    until = monotonic() + 10
    while not condition() and monotonic() < until:
        sleep(0.01)
    assert condition()


def test_every_long_wait_for_a_lock_is_told_and_each_only_once(told: Told, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        for number in range(1, 6):
            with waiting.announce_waiting(fd):
                wait_for(lambda number=number: told.waits() >= number)  # type: ignore[misc]
                sleep(0.05)
            assert told.waits() == number
    finally:
        os.close(fd)


def test_a_forked_child_does_not_tell_of_the_waits_of_its_parent(told: Told, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    with waiting.announce_waiting(fd), waiting._guard:
        pid = os.fork()
        if not pid:
            good = not waiting._waiting and waiting._guard.acquire(blocking=False)
            os._exit(0 if good else 1)
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    assert status == 0


# -- forks


@pytest.mark.parametrize("call", ["open", "close"])
def test_a_child_forked_beside_an_open_or_close_of_another_thread_keeps_no_descriptor(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between the descriptor is there and nobody knows it: a child that kept one would keep its lock."""
    disk = Disk()
    path = str(tmp_path / "lock")
    fds = [disk.open(path, CREATE)]
    in_between, forked = threading.Event(), threading.Event()
    original = getattr(os, call)

    def slow(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not thread:
            return original(*arguments, **options)
        if call == "open":
            fds.append(original(*arguments, **options))
        in_between.set()
        forked.wait(0.5)  # a fork that has to wait for us does not come
        return fds[-1] if call == "open" else original(*arguments, **options)

    work = (lambda: disk.open(path)) if call == "open" else (lambda: disk.close(fds[0]))
    thread = threading.Thread(target=work)
    monkeypatch.setattr(os, call, slow)
    thread.start()
    in_between.wait()
    pid = os.fork()
    if not pid:
        for fd in fds:
            try:
                os.fstat(fd)
                os._exit(1)
            except OSError:
                pass
        os._exit(0)
    forked.set()
    thread.join()
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the child has a descriptor of its parent"
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        for fd in reversed(fds):
            disk.close(fd)


# -- systems that lack calls of Linux


def test_without_fdatasync_and_posix_fadvise_a_store_works(tmp_path: Path) -> None:
    """As on macOS; there `fsync` alone leaves bytes in the drive's cache."""
    script = f"""
import fcntl, os
for name in ("fdatasync", "posix_fadvise", "O_DIRECT"):
    delattr(os, name)
import pspf
from pspf.disk import macos, real
assert real._sync is real._datasync is macos.full_sync
with pspf.open({str(tmp_path / "s")!r}) as store:
    store.append("t", "x")
os.unlink({str(tmp_path / "s/topics/t/0/commit")!r})
with pspf.open({str(tmp_path / "s")!r}) as store:
    store.append("t", "y")
    assert [record.value for record in store.read("t")] == [b"x", b"y"]
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTTY, errno.EIO])
def test_a_full_sync_that_fails_is_no_sync(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def fails(fd: int, command: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(macos, "fcntl", fails)
    monkeypatch.setattr(os, "fsync", synced.append)
    if number == errno.EIO:
        with pytest.raises(OSError, match="error"):
            macos.full_sync(7)
        assert not synced
    else:
        macos.full_sync(7)  # a file system that does not have it
        assert synced == [7]
