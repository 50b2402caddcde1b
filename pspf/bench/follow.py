"""W4: one append every 5 ms, and how long it takes until another process has the record in its hands.

Each line begins with the time at which it was about to be appended, on the clock that all processes share.
The baselines hand over by hand: a line written to a file, and the follower woken by inotify.
"""

from __future__ import annotations

import ctypes
import os
import sys
from itertools import chain
from time import monotonic_ns, sleep

import pspf
from pspf.bench import events, raw
from pspf.bench.processes import Helper
from pspf.bench.report import AT_MOST, interleave, percentile, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.bench.context import Context
    from pspf.bench.report import Row

TOPIC = "bench"
PAUSE_NS = 5_000_000
WARM = 10
END = b"end"
IN_MODIFY = 2


def hand_over(context: Context) -> list[Row]:
    """W4."""
    count = context.size(200, 60, 5)
    if not sys.platform.startswith("linux"):
        context.say("W4: the baseline needs inotify; not measured here")
        return []

    def by_hand(sync: bool) -> list[int]:
        data, signal = context.path("data"), context.path("signal")
        # Zeros, as for W2: a sync carries no change of size.
        data_fd = raw.zeroed(data, (count + WARM + 2) * events.LINE_BYTES)
        signal_fd = raw.zeroed(signal, 8)
        at = 0

        def append(line: bytes) -> None:
            nonlocal at
            at += os.pwrite(data_fd, line + b"\n", at)
            if sync:
                os.fdatasync(data_fd)
            # Written behind the sync: what a follower is woken by.
            os.pwrite(signal_fd, at.to_bytes(8, "little"), 0)

        try:
            return paced(
                Helper("follow", "follow_file", context.env, data=data, signal=signal), append, count
            )
        finally:
            os.close(data_fd)
            os.close(signal_fd)

    def through_store(durability: str) -> list[int]:
        name = f"w4-{durability}"
        with context.store(name) as store:
            if TOPIC not in store.topics():
                store.create_topic(TOPIC, pspf.TopicConfig(durability=durability))
                store.append(TOPIC, b"first")
            return paced(
                Helper("follow", "follow_store", context.env, path=context.path(name)),
                lambda line: store.append(TOPIC, line),
                count,
            )

    took = interleave(
        context.size(8, 3, 1),
        {
            "unsynced by hand": lambda: by_hand(False),
            "unsynced": lambda: through_store("os"),
            "synced by hand": lambda: by_hand(True),
            "synced": lambda: through_store("sync"),
        },
    )
    context.remove("data", "signal", "w4-os", "w4-sync")
    p50 = {name: [percentile(part, 50) / 1000 for part in parts] for name, parts in took.items()}
    p99 = {name: [percentile(chain(*parts), 99) / 1000] for name, parts in took.items()}
    wake, synced = "write, inotify, read", "write, fdatasync, inotify, read"
    return [
        row("W4", f"{wake}, p50", p50["unsynced by hand"], "µs"),
        row("W4", f"{synced}, p50", p50["synced by hand"], "µs"),
        row("W4", f"{synced}, p99", p99["synced by hand"], "µs"),
        row(
            "W4",
            "append os to tail, p50",
            p50["unsynced"],
            "µs",
            (wake, p50["unsynced by hand"]),
            (AT_MOST, 3),
        ),
        row("W4", "append sync to tail, p50", p50["synced"], "µs", (synced, p50["synced by hand"])),
        row(
            "W4",
            "append sync to tail, p99",
            p99["synced"],
            "µs",
            (synced, p99["synced by hand"]),
            (AT_MOST, 1.5),
        ),
    ]


def paced(follower: Helper, append: Callable[[bytes], object], count: int) -> list[int]:
    """Append ``count`` stamped lines, one every 5 ms; the follower's latencies in ns."""
    follower.go()
    sleep(0.1)
    at = monotonic_ns()
    for number in range(WARM + count + 1):
        at += PAUSE_NS
        sleep(max(0, at - monotonic_ns()) / 1e9)
        stamp = b"%020d" % monotonic_ns() if number < WARM + count else END
        append(stamp.ljust(events.LINE_BYTES - 1, b"."))
    took: list[int] = follower.result()
    return took[WARM:]


# -- the follower's process


def follow_file(data: str, signal: str) -> Callable[[], list[int]]:
    """Woken by hand: one inotify watch, one read of what is new."""
    libc = ctypes.CDLL(None, use_errno=True)
    notify_fd: int = libc.inotify_init1(os.O_CLOEXEC)
    if notify_fd < 0 or libc.inotify_add_watch(notify_fd, os.fsencode(signal), IN_MODIFY) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    data_fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    signal_fd = os.open(signal, os.O_RDONLY | os.O_CLOEXEC)

    def run() -> list[int]:
        took: list[int] = []
        at = 0
        while True:
            os.read(notify_fd, 4096)
            end = int.from_bytes(os.pread(signal_fd, 8, 0), "little")
            lines = os.pread(data_fd, end - at, at).split(b"\n")[:-1]
            now = monotonic_ns()
            at = end
            for line in lines:
                if line.startswith(END):
                    return took
                took.append(now - int(line[:20]))

    return run


def follow_store(path: str) -> Callable[[], list[int]]:
    """``store.tail``."""
    store = pspf.open(path)
    records = store.tail(TOPIC, last=1, follow=True)
    next(records)

    def run() -> list[int]:
        took = []
        for record in records:
            assert record.value is not None
            if record.value.startswith(END):
                break
            took.append(monotonic_ns() - int(record.value[:20]))
        return took

    return run
