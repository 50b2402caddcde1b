"""The simulated disk and a real one get the same calls, and must give the same results and errors."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pspf.disk.real import CREATE, CREATE_EMPTY, CREATE_NEW, READ, WRITE, Disk
from pspf.testing import SimDisk

NAMES = ["a", "b", "d", "e", "d/a", "a/a", "e/d", ".", "", "x" * 255, "x" * 256]
FEW = st.integers(0, 9)
LENGTHS = st.sampled_from([0, 1, 100, 512, 4095, 4096, 5000, 9000])
POSITIONS = st.sampled_from([0, 1, 50, 511, 512, 4000, 4096, 8192, 10_000, -2])
SOME_BYTES = LENGTHS.filter(lambda length: length > 0)
PLACES = POSITIONS.filter(lambda at: at >= 0)
NAME = st.sampled_from(NAMES)
# A descriptor that was never open: what a use after close gives.
BAD_FD = 1_000_000

CALLS = st.one_of(
    st.tuples(st.just("open"), NAME, st.sampled_from([READ, WRITE, CREATE, CREATE_NEW, CREATE_EMPTY]), FEW),
    st.tuples(st.just("open_dir"), NAME, FEW),
    st.tuples(st.just("close"), FEW),
    st.tuples(st.just("pread"), FEW, LENGTHS, POSITIONS),
    st.tuples(st.just("read_stable"), FEW, NAME, FEW, SOME_BYTES, PLACES),
    st.tuples(st.just("size"), FEW),
    st.tuples(st.just("stat"), FEW),
    st.tuples(st.just("stat_name"), NAME, FEW),
    st.tuples(st.just("exists"), NAME, FEW),
    st.tuples(st.just("read_file"), NAME, FEW),
    st.tuples(st.just("listdir"), FEW),
    st.tuples(st.just("pwrite"), FEW, LENGTHS, POSITIONS),
    st.tuples(st.just("pwritev"), FEW, LENGTHS, POSITIONS),
    st.tuples(st.just("truncate"), FEW, POSITIONS),
    st.tuples(st.just("fdatasync"), FEW),
    st.tuples(st.just("fsync"), FEW),
    st.tuples(st.just("update_times"), FEW),
    st.tuples(st.just("rename"), NAME, NAME, FEW, FEW),
    st.tuples(st.just("unlink"), NAME, FEW),
    st.tuples(st.just("mkdir"), NAME, FEW),
    st.tuples(st.just("rmdir"), NAME, FEW),
    st.tuples(st.just("lock"), FEW),
    st.tuples(st.just("lock_shared"), FEW),
    st.tuples(st.just("unlock"), FEW),
)


class Side:
    """One disk with the descriptors that a sequence of calls has opened on it; the first is the root."""

    def __init__(self, disk: Disk, root: str) -> None:
        self.disk = disk
        self.fds = [disk.open_dir(root)]
        self.closed: set[int] = set()
        self.written = 0

    def fd(self, number: int) -> int:
        place = number % len(self.fds)
        return BAD_FD if place in self.closed else self.fds[place]

    def run(self, call: tuple[object, ...]) -> object:
        try:
            return self._run(call)
        except OSError as error:
            names = tuple("fd" if isinstance(n, int) else n for n in (error.filename, error.filename2))
            if call[0] == "update_times":
                names = ()  # Python 3.13 names the descriptor, earlier ones do not
            return type(error).__name__, error.errno, names

    def _run(self, call: tuple[object, ...]) -> object:
        name, *args = call
        disk = self.disk
        match name, args:
            case "open", [str(path), int(flags), int(at)]:
                self.fds.append(disk.open(path, flags, self.fd(at)))
            case "open_dir", [str(path), int(at)]:
                self.fds.append(disk.open_dir(path, self.fd(at)))
            case "close", [int(fd)]:
                place = fd % len(self.fds)
                disk.close(self.fd(fd))
                self.closed.add(place)
            case "pread", [int(fd), int(length), int(position)]:
                return disk.pread(self.fd(fd), length, position)
            case "read_stable", [int(fd), str(path), int(at), int(length), int(position)]:
                return disk.read_stable(self.fd(fd), path, self.fd(at), length, position)
            case "size", [int(fd)]:
                size = disk.size(self.fd(fd))
                return None if disk.stat(self.fd(fd)).st_mode & 0o40000 else size
            case "stat", [int(fd)]:
                return self._plain(disk.stat(self.fd(fd)))
            case "stat_name", [str(path), int(at)]:
                return self._plain(disk.stat_name(path, self.fd(at)))
            case "exists", [str(path), int(at)]:
                return disk.exists(path, self.fd(at))
            case "read_file", [str(path), int(at)]:
                return disk.read_file(path, 5_000, self.fd(at))
            case "listdir", [int(fd)]:
                return sorted(disk.listdir(self.fd(fd)))
            case "pwrite", [int(fd), int(length), int(position)]:
                disk.pwrite(self.fd(fd), self._data(length), position)
            case "pwritev", [int(fd), int(length), int(position)]:
                parts: list[bytes | memoryview] = [self._data(length), memoryview(self._data(10))]
                disk.pwritev(self.fd(fd), parts, position)
            case "rename", [str(old), str(new), int(at), int(to)]:
                disk.rename(old, new, self.fd(at), self.fd(to))
            case (("unlink" | "mkdir" | "rmdir"), [str(path), int(at)]):
                return getattr(disk, str(name))(path, self.fd(at))
            case "truncate", [int(fd), int(size)]:
                disk.truncate(self.fd(fd), size)
            case "lock", [int(fd)]:
                return disk.lock(self.fd(fd), wait=False)
            case (("fdatasync" | "fsync" | "update_times" | "lock_shared" | "unlock"), [int(fd)]):
                return getattr(disk, str(name))(self.fd(fd))
            case _:
                raise AssertionError(call)
        return None

    @staticmethod
    def _plain(found: os.stat_result) -> object:
        if found.st_mode & 0o40000:
            return found.st_mode, found.st_uid, found.st_nlink == 0
        return found.st_mode, found.st_uid, found.st_nlink, found.st_size

    def _data(self, length: int) -> bytes:
        self.written += 1
        return bytes([self.written % 255 + 1]) * length

    def end(self) -> None:
        for place, fd in enumerate(self.fds):
            if place not in self.closed:
                self.disk.close(fd)


@given(calls=st.lists(CALLS, max_size=40))
def test_the_simulated_disk_answers_like_the_real_one(calls: list[tuple[object, ...]]) -> None:
    parent = Path(__file__).resolve().parent.parent / ".test-data"
    parent.mkdir(exist_ok=True)
    path = tempfile.mkdtemp(dir=parent)
    try:
        disk = SimDisk()
        real, simulated = Side(Disk(), path), Side(disk, "/")
        for number, call in enumerate(calls):
            expected = real.run(call)
            assert simulated.run(call) == expected, f"call {number}: {call}"
        sim_files = {name[1:]: content for name, content in disk.tree().items()}
        real.end()
        simulated.end()
        assert sim_files == {
            found.relative_to(path).as_posix(): found.read_bytes() if found.is_file() else None
            for found in Path(path).rglob("*")
        }
    finally:
        shutil.rmtree(path)


def test_every_call_of_the_seam_is_simulated() -> None:
    seam = {name for name, value in vars(Disk).items() if callable(value) and not name.startswith("_")}
    made_of_others = {"read_file"}
    assert seam - made_of_others <= set(vars(SimDisk))
