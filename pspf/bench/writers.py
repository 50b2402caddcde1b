"""W6: four processes append to one topic, a record at a time.

The baselines hold an ``flock`` around a write, and sync after it is released, so that the kernel can group
the syncs of all. They keep the end of the file in its first bytes, since a file of zeros (which a sync is
quickest into) does not tell it.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, LOCK_UN, flock
from time import monotonic_ns

import pspf
from pspf import errors
from pspf.bench import events, raw, sqlite
from pspf.bench.processes import Helper, together
from pspf.bench.report import AT_LEAST, EQUAL, interleave, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pspf.bench.context import Context
    from pspf.bench.report import Row

WRITERS = 4
TOPIC = "bench"


def four_writers(context: Context) -> list[Row]:
    """W6."""
    repeats = context.size(5, 2, 1)
    gathered = context.size(50_000, 10_000, 50)
    unsynced = context.size(10_000, 2_000, 20)
    synced = context.size(400, 100, 10)
    lost: list[float] = []

    def run(function: str, each: int, path: str, **arguments: Any) -> float:
        return rate(context, function, each, path=context.path(path), **arguments)

    def plain(each: int, sync: bool, zeros: bool) -> float:
        size = (WRITERS * each + 1) * events.LINE_BYTES if zeros else 8
        os.close(raw.zeroed(context.path("plain"), size))
        return run("locked_writes", each, "plain", sync=sync, grow=not zeros)

    def store(each: int, durability: str, linger_ms: float | None = None) -> float:
        with context.store("w6") as made:
            made.create_topic(TOPIC, pspf.TopicConfig(durability=durability))
            made.append(TOPIC, b"first")
        speed = run("store_appends", each, "w6", linger_ms=linger_ms)
        lost.append(lost_or_twice(context, each))
        context.remove("w6")
        return speed

    def database(each: int) -> float:
        sqlite.connect(context.path("w6.db")).close()
        speed = run("database_inserts", each, "w6.db")
        sqlite.remove(context.path("w6.db"))
        return speed

    many = interleave(
        repeats,
        {
            "plain": lambda: plain(unsynced, False, False),
            "gathered": lambda: store(gathered, "sync", 1),
            "gathered, os": lambda: store(gathered, "os", 1),
            "os": lambda: store(unsynced, "os"),
        },
    )
    few = interleave(
        repeats,
        {
            "zeros": lambda: plain(synced, True, True),
            "growing": lambda: plain(synced, True, False),
            "sqlite": lambda: database(synced),
            "sync": lambda: store(synced, "sync"),
        },
    )
    context.remove("plain")
    write, sync = "lock + write", "lock + write into zeros, fsync after unlock"
    return [
        row("W6", write, many["plain"], "records/s"),
        row("W6", sync, few["zeros"], "records/s"),
        row("W6", "lock + append, fsync after unlock", few["growing"], "records/s"),
        row("W6", "SQLite FULL", few["sqlite"], "records/s"),
        row(
            "W6",
            "gathered, 1 ms",
            many["gathered"],
            "records/s",
            (write, many["plain"]),
            (AT_LEAST, 0.5),
        ),
        row(
            "W6",
            "gathered, 1 ms, not synced",
            many["gathered, os"],
            "records/s",
            (write, many["plain"]),
        ),
        row(
            "W6",
            "written (os)",
            many["os"],
            "records/s",
            (write, many["plain"]),
            (AT_LEAST, 0.2),
        ),
        row(
            "W6",
            "on disk (sync)",
            few["sync"],
            "records/s",
            (sync, few["zeros"]),
            (AT_LEAST, 0.75),
        ),
        row(
            "W6",
            "on disk (sync)",
            few["sync"],
            "records/s",
            ("SQLite FULL", few["sqlite"]),
            (AT_LEAST, 1.5),
        ),
        row("W6", "lost, twice or out of order", [sum(lost)], "records", goal=(EQUAL, 0)),
    ]


def rate(context: Context, function: str, each: int, **arguments: Any) -> float:
    """Records a second of four processes that begin together."""
    helpers = [
        Helper("writers", function, context.env, count=each, number=number, **arguments)
        for number in range(WRITERS)
    ]
    spans: list[tuple[int, int]] = together(helpers)
    return WRITERS * each / (max(end for _, end in spans) - min(start for start, _ in spans)) * 1e9


def lost_or_twice(context: Context, each: int) -> int:
    """How many records are not there exactly once and in the order in which their process appended them."""
    wrong = 0
    following = [0] * WRITERS
    with pspf.open(context.path("w6"), read_only=True) as store:
        reader = store.reader(TOPIC, 0)
        reader.seek(0)
        first = True
        while batches := reader.read():
            for batch in batches:
                for value in batch.columns().values():
                    if first:
                        first = False
                        continue
                    assert value is not None
                    writer, number = value[:16].split(b":")[:2]
                    wrong += int(number) != following[int(writer)]
                    following[int(writer)] = int(number) + 1
        reader.close()
    return wrong + sum(abs(each - count) for count in following)


def lines_of(number: int, count: int) -> list[bytes]:
    """What process ``number`` appends: events that say whose they are."""
    return [b"%d:%08d:" % (number, i) + value[11:] for i, value in enumerate(events.values(count))]


# -- what the four processes run


def locked_writes(
    path: str, count: int, number: int, sync: bool, grow: bool
) -> Callable[[], tuple[int, int]]:
    """A bare lock around each write; ``grow``: at the end of the file, which the file system knows."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_APPEND if grow else 0))
    lines = [line + b"\n" for line in lines_of(number, count)]

    def run() -> tuple[int, int]:
        start = monotonic_ns()
        for line in lines:
            flock(fd, LOCK_EX)
            if grow:
                os.write(fd, line)
            else:
                end = int.from_bytes(os.pread(fd, 8, 0), "little") or events.LINE_BYTES
                os.pwrite(fd, line, end)
                os.pwrite(fd, (end + len(line)).to_bytes(8, "little"), 0)
            flock(fd, LOCK_UN)
            if sync:
                os.fdatasync(fd)
        return start, monotonic_ns()

    return run


def store_appends(
    path: str, count: int, number: int, linger_ms: float | None
) -> Callable[[], tuple[int, int]]:
    """``store.append``, or a writer that gathers."""
    store = pspf.open(path)
    lines = lines_of(number, count)
    # Opens the partition, which is not what is measured.
    store.partition_writer(store.topic(TOPIC), 0)

    def run() -> tuple[int, int]:
        start = monotonic_ns()
        if linger_ms is None:
            append = store.append
            for line in lines:
                append(TOPIC, line)
        else:
            with store.writer(TOPIC, linger_ms=linger_ms) as writer:
                tickets = {writer.append(line) for line in lines}
                writer.flush()
            if not all(ticket.done and ticket.error is None for ticket in tickets):
                raise errors.IOFailed("cannot measure", "a gathered append failed")
        end = monotonic_ns()
        store.close()
        return start, end

    return run


def database_inserts(path: str, count: int, number: int) -> Callable[[], tuple[int, int]]:
    """An insert a transaction."""
    connection = sqlite.connect(path)
    lines = lines_of(number, count)

    def run() -> tuple[int, int]:
        start = monotonic_ns()
        for line in lines:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(sqlite.INSERT, (events.FIRST_MS, line))
            connection.execute("COMMIT")
        end = monotonic_ns()
        connection.close()
        return start, end

    return run
