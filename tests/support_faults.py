"""What the tests of real faults start as processes: a drive that fails on demand, and a writer led by hand.

``python support_faults.py drive IMAGE FILE`` mounts a file system of one file (FUSE) on ``FILE``. A loop
device on it is a real disk to the kernel, with a write cache that only a flush empties; what it answers is
decided here. Commands come on standard input, one a line, and each is answered with a line:

============  =========================================================================================
``fail HEX``  writes that contain these bytes fail with an I/O error; nothing of them is stored
``full HEX``  the same with "no space left", as a thin volume answers
``failed``    how many writes have failed so far
``mute``      reads fail with an I/O error
``works``     nothing of that fails any more
``off SEED``  the power goes: of what was not flushed any part is lost, and nothing is answered any more;
              ``off SEED nothing`` keeps none of it
``on``        it is back
============  =========================================================================================

``python support_faults.py hand STORE`` has the store open and does one thing a line, see :class:`Hand`, so
that a test decides what happens between the steps of an append.
"""

import ctypes
import errno
import os
import random
import select
import struct
import sys
from collections.abc import Iterator

SECTOR = 512
MOST = 1 << 20

# Of <linux/fuse.h>.
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 1, 2, 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, INTERRUPT, BATCH_FORGET = 20, 25, 26, 36, 42
ASYNC_READ, BIG_WRITES, MAX_PAGES = 1, 1 << 5, 1 << 22
DIRECT_IO = 1
IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")


class Drive:
    """The bytes of a disk. The image holds what a read shows; ``unflushed`` how to get back from there."""

    def __init__(self, image: str) -> None:
        self.fd = os.open(image, os.O_RDWR)
        self.size = os.fstat(self.fd).st_size
        self.unflushed: list[tuple[int, bytes, bytes]] = []
        self.fails: list[tuple[bytes, int]] = []
        self.failed = 0
        self.mute = False
        self.is_on = True

    def read(self, at: int, length: int) -> bytes:
        self._answers()
        if self.mute:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pread(self.fd, length, at)

    def write(self, at: int, data: bytes) -> None:
        self._answers()
        for wanted, error in self.fails:
            if wanted in data:
                self.failed += 1
                raise OSError(error, os.strerror(error))
        self.unflushed.append((at, os.pread(self.fd, len(data), at), data))
        os.pwrite(self.fd, data, at)

    def flush(self) -> None:
        self._answers()
        self.unflushed.clear()

    def _answers(self) -> None:
        if not self.is_on:
            raise OSError(errno.EIO, "the power is off")

    def off(self, rng: random.Random, how: str) -> str:
        """Keep some of what was not flushed: a sector has one of the contents that it was given since."""
        self.is_on = False
        for at, before, _ in reversed(self.unflushed):
            os.pwrite(self.fd, before, at)
        how = how or rng.choice(("nothing", "everything", "up to one", "some", "sectors of some"))
        stop = rng.randrange(len(self.unflushed) + 1)
        kept = 0
        for number, (at, _, data) in enumerate(self.unflushed):
            if how == "sectors of some":
                for start in range(0, len(data), SECTOR):
                    if rng.random() < 0.5:
                        kept += os.pwrite(self.fd, data[start : start + SECTOR], at + start)
            elif (
                how == "everything"
                or (how == "up to one" and number < stop)
                or (how == "some" and rng.random() < 0.5)
            ):
                kept += os.pwrite(self.fd, data, at)
        lost = sum(len(data) for _, _, data in self.unflushed) - kept
        told = f"{how}, {kept} bytes kept and {lost} lost of {len(self.unflushed)} writes"
        self.unflushed.clear()
        return told

    def command(self, line: str) -> str:
        word, _, rest = line.partition(" ")
        if word in ("fail", "full"):
            self.fails.append((bytes.fromhex(rest), errno.EIO if word == "fail" else errno.ENOSPC))
        elif word == "failed":
            return str(self.failed)
        elif word == "mute":
            self.mute = True
        elif word == "works":
            self.fails.clear()
            self.mute = False
        elif word == "off":
            seed, _, how = rest.partition(" ")
            return self.off(random.Random(int(seed)), how)
        elif word == "on":
            self.is_on = True
        else:
            raise ValueError(line)
        return "ok"


class FuseFile:
    """The drive as a mounted file."""

    def __init__(self, drive: Drive, target: str) -> None:
        self.drive = drive
        self.fd = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.fd},rootmode=100600,user_id=0,group_id=0"
        nosuid_nodev = 2 | 4
        if libc.mount(b"drive", target.encode(), b"fuse", nosuid_nodev, options.encode()):
            number = ctypes.get_errno()
            raise OSError(number, f"cannot mount with fuse: {os.strerror(number)}")

    def serve(self) -> None:
        """Answer until standard input ends."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(0, select.POLLIN | select.POLLHUP)
        lines = _lines()
        while True:
            for fd, _ in poll.poll():
                if fd == 0:
                    line = next(lines, "")
                    if not line:
                        return
                    os.write(1, self.drive.command(line).encode() + b"\n")
                else:
                    self.answer(os.read(self.fd, MOST + 4096))

    def answer(self, request: bytes) -> None:
        _, code, unique, *_ = IN_HEADER.unpack_from(request)
        if code in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        error, body = 0, b""
        try:
            body = self.reply(code, memoryview(request)[IN_HEADER.size :])
        except OSError as failure:
            error = failure.errno or errno.EIO
        try:
            os.writev(self.fd, [OUT_HEADER.pack(OUT_HEADER.size + len(body), -error, unique), body])
        except FileNotFoundError:
            pass  # the request was interrupted

    def reply(self, code: int, data: memoryview) -> bytes:
        drive = self.drive
        if code == INIT:
            major, _, ahead, _ = struct.unpack_from("<IIII", data)
            flags = ASYNC_READ | BIG_WRITES | MAX_PAGES
            return struct.pack("<IIIIHHIIHHI28x", major, 31, ahead, flags, 64, 48, MOST, 1, MOST >> 12, 0, 0)
        if code in (GETATTR, SETATTR):
            blocks = drive.size // SECTOR
            return struct.pack(
                "<16x6Q3I7I", 1, drive.size, blocks, 0, 0, 0, 0, 0, 0, 0o100600, 1, 0, 0, 0, 4096, 0
            )
        if code == OPEN:
            return struct.pack(
                "<QII", 0, DIRECT_IO, 0
            )  # the kernel's cache of the file would outlive the power
        if code == READ:
            _, at, length = struct.unpack_from("<QQI", data)
            return drive.read(at, length)
        if code == WRITE:
            _, at, length = struct.unpack_from("<QQI", data)
            drive.write(at, bytes(data[40 : 40 + length]))
            return struct.pack("<II", length, 0)
        if code == FSYNC:
            drive.flush()
            return b""
        if code in (FLUSH, RELEASE):
            return b""
        raise OSError(errno.ENOSYS, "not needed here")


def _lines() -> Iterator[str]:
    """Lines of standard input, by single reads: what is in a buffer would not wake a poll."""
    while data := os.read(0, 4096):
        assert data.endswith(b"\n"), "the other side waits for each answer"
        yield data.decode().strip()


def drive(image: str, target: str) -> None:
    mounted = FuseFile(Drive(image), target)
    os.write(1, b"ready\n")
    mounted.serve()


class Hand:
    """A process that has a topic open and appends as it is told.

    ``append VALUE`` is one call; ``open`` opens the partition, ``write VALUE`` puts a record behind the
    written end, and ``sync`` acknowledges what was written. The answer is ``ok OFFSET``, or the name, exit
    code and text of the error.
    """

    def __init__(self, path: str) -> None:
        import pspf

        self.error = pspf.Error
        self.store = pspf.open(path, create=False)
        self.offset = -1

    def do(self, line: str) -> str:
        word, _, rest = line.partition(" ")
        try:
            return f"ok {self.done(word, rest)}"
        except self.error as error:
            return f"{type(error).__name__} {error.exit_code} {error}"

    def done(self, word: str, rest: str) -> int:
        from pspf.format.encode import encode_records

        if word == "append":
            return self.store.append("t", rest, create=False).first
        if word == "close":
            self.store.close()
            return 0
        topic = self.store.find_topic("t")
        assert topic is not None
        writer = self.store.partition_writer(topic, 0, None)
        if word == "write":
            placed = writer.write(encode_records((rest.encode(),), None, 1, None, False))
            self.offset = placed.end
            return placed.first
        if word == "sync":
            writer.sync(self.offset)
            return self.offset
        assert word == "open", word
        return writer.next_offset


def hand(path: str) -> None:
    led = Hand(path)
    os.write(1, b"ready\n")
    for line in _lines():
        os.write(1, led.do(line).encode() + b"\n")
    led.do("close")


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        drive(sys.argv[2], sys.argv[3])
    else:
        hand(sys.argv[2])
