"""What is measured on: the disk below a directory, which kind of sync is in force, and how fast both are."""

from __future__ import annotations

import os
import sys
from time import perf_counter, perf_counter_ns

from pspf import errors

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
PROBE_BYTES = 128 << 20
BUSY = 0.5


def mount_of(path: str) -> tuple[str, str]:
    """Type of the file system that holds ``path``, and its device; ``("", "")`` where that cannot be told."""
    number = os.stat(path).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    real = os.path.realpath(path)
    found = ("", "")
    longest = -1
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            lines = table.readlines()
    except OSError:
        return found
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        point = fields[4].replace("\\040", " ")
        # btrfs and overlayfs show another device number than their mount has: there the path has to tell.
        below = real == point or real.startswith(point.rstrip("/") + "/")
        rank = len(point) + (1 << 20 if fields[2] == wanted else 0)
        if below and rank > longest:
            found, longest = (rest[0], rest[1]), rank
    return found


def refuse_memory(path: str, kind: str, asked: bool) -> None:
    """Nothing measured in memory says anything about a disk.

    :raises pspf.errors.BadConfig: ``path`` is on such a file system.
    """
    if kind in MEMORY_FILE_SYSTEMS:
        raise errors.BadConfig(
            "cannot measure here",
            f"it is memory ({kind}), where a sync does nothing",
            path,
            "another directory, on the disk that matters: pspf bench --dir DIR"
            if asked
            else "name a directory on the disk that matters: pspf bench --dir DIR",
        )


def write_cache(device: str) -> str:
    """``write back``: the disk has a cache that a sync must empty; ``write through``: none; "" if unknown."""
    name = os.path.basename(os.path.realpath(device)) if device.startswith("/dev/") else ""
    while name:
        try:
            with open(f"/sys/class/block/{name}/queue/write_cache", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            name = name[:-1]  # a partition: the queue belongs to the disk
    return ""


class Disk:
    """Facts of the disk below a directory, measured when made."""

    __slots__ = ("cache", "device", "kind", "mb_per_s", "sync_us")

    def __init__(self, directory: str, probe_bytes: int = PROBE_BYTES) -> None:
        self.kind, self.device = mount_of(directory)
        self.cache = write_cache(self.device)
        path = os.path.join(directory, "probe")
        self.mb_per_s = sequential_mb_per_s(path, probe_bytes)
        self.sync_us = sync_us(path)
        os.unlink(path)

    def lines(self) -> list[str]:
        """What a reader of the figures must know."""
        cache = {
            "write back": "with a write cache that a sync empties",
            "write through": "without a write cache",
        }
        said = [
            f"disk: {self.kind or 'unknown file system'} on {self.device or 'an unknown device'} "
            f"{cache.get(self.cache, '')}".rstrip(),
            f"sync: fdatasync, {self.sync_us:,.0f} µs for 100 bytes written into zeros (median); "
            f"writing {self.mb_per_s:,.0f} MB/s, synced",
            f"python {sys.version.split()[0]}, {os.cpu_count()} processors",
        ]
        busy = os.getloadavg()[0]
        if busy > BUSY:
            said.append(
                f"{busy:.1f} processes of others want to run (load average): "
                "figures are worse than they could be, and ratios less certain"
            )
        if self.sync_us < 20:
            said.append("a sync this short reaches no disk: figures that are durable elsewhere are not, here")
        return said


def sequential_mb_per_s(path: str, size: int) -> float:
    """Megabytes a second written in one go and synced; median of three."""
    block = os.urandom(1 << 20)
    speeds = []
    for _ in range(3):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            start = perf_counter()
            for _ in range(max(1, size >> 20)):
                os.write(fd, block)
            os.fdatasync(fd)
            speeds.append(max(1, size >> 20) * len(block) / (perf_counter() - start) / 1e6)
        finally:
            os.close(fd)
    return sorted(speeds)[1]


def sync_us(path: str, count: int = 50) -> float:
    """Median microseconds of ``pwrite`` and ``fdatasync`` into a file of zeros."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    took = []
    try:
        os.pwrite(fd, bytes(64 << 10), 0)
        os.fsync(fd)
        for number in range(count):
            start = perf_counter_ns()
            os.pwrite(fd, b"x" * 100, number * 100)
            os.fdatasync(fd)
            took.append(perf_counter_ns() - start)
    finally:
        os.close(fd)
    return sorted(took)[count // 2] / 1000
