"""Durability ``interval``: what was appended is synced in time, also when nobody appends any more."""

from _thread import start_new_thread
from time import sleep

import pspf

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.log.writer import PartitionWriter


def sync_in_time(writer: "PartitionWriter", end: int) -> None:
    """Behind an append: sync, for all, if the oldest unsynced append of whomever is older than the interval;
    otherwise see to it that somebody will.
    """
    oldest = writer.record.oldest_unsynced_ms
    if oldest and writer.files.disk.now_ns() // 1_000_000 - oldest >= writer.identity.config.interval_ms:
        writer.sync(end)
    elif not writer.timed:
        writer.timed = True
        start_timer(writer)


def start_timer(writer: "PartitionWriter") -> None:
    """Sync ``writer`` every ``interval_ms`` until it is closed or broken."""
    start_new_thread(_run, (writer, writer.identity.config.interval_ms / 1000))


def _run(writer: "PartitionWriter", interval_s: float) -> None:
    while True:
        sleep(interval_s)
        if writer.broken:
            return
        end = writer.next_offset
        if writer.durable_end < end:
            try:
                writer.sync(end)
            except pspf.errors.Error:
                pass  # a handle that can never sync is broken; otherwise the next interval tries again
