"""Durability ``interval``: a thread that syncs what was appended, so that the bound holds when nobody
appends any more.
"""

from _thread import start_new_thread
from time import sleep

import pspf

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.log.writer import PartitionWriter


def start_timer(writer: "PartitionWriter") -> None:
    """Sync ``writer`` every ``interval_ms`` until it is closed or broken."""
    start_new_thread(_run, (writer, writer.identity.config.interval_ms / 1000))


def _run(writer: "PartitionWriter", interval_s: float) -> None:
    while True:
        sleep(interval_s)
        if writer.broken:
            return
        end = writer.next_offset
        if writer.durable_end >= end:
            continue
        try:
            writer.sync(end)
        except pspf.errors.Error:
            return  # the handle knows; its next append says so
