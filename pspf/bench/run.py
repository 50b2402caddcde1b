"""One run of the measurements: where, which, and in which order."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from time import perf_counter

from pspf import errors
from pspf.bench import bulk, follow, machine, memory, segments, single, space, topics, writers
from pspf.bench.context import Context
from pspf.bench.processes import environment
from pspf.bench.report import row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pspf.bench.report import Row

WORKLOADS: dict[str, tuple[str, tuple[Callable[[Context], list[Row]], ...]]] = {
    "W1": ("a million lines in", (bulk.lines_in, bulk.records_in)),
    "W2": ("single durable appends", (single.single_appends,)),
    "W3": ("all of them out again", (bulk.all_out,)),
    "W4": ("hand-over to a follower", (follow.hand_over,)),
    "W5": ("a process for one record", (single.one_process_a_record,)),
    "W6": ("four writing processes", (writers.four_writers,)),
    "W8": ("bytes on disk", (space.bytes_on_disk,)),
    "W9": ("opening, by segments and after a crash", (segments.opening,)),
    "W10": ("memory", (memory.peaks,)),
    "W11": ("many topics", (topics.many_topics,)),
}
RECORDS = 1_000_000
QUICK_RECORDS = 100_000
LEAST_RECORDS = 1000
ROOM_FOR_A_RECORD = 1200
ROOM_BESIDES = {False: 2 << 30, True: 512 << 20}


def run(
    dir: str | None = None,
    only: Sequence[str] | None = None,
    quick: bool = False,
    records: int | None = None,
    on_line: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measure, in a directory that is removed afterwards.

    :param dir: on the disk that is to be measured; the directory for temporary files by default.
    :param only: names of workloads, ``W1`` to ``W11``; all by default.
    :param quick: fewer records and repeats: less than a minute, and wider spreads.
    :param records: so many events in the bulk workloads instead of a million (quick: 100,000).
    :param on_line: gets what is known of the machine, and what is being measured, as it happens.
    :returns: rows as :func:`pspf.bench.report.row` makes them; those of the workload ``disk`` come first.
    :raises pspf.errors.BadConfig: the directory is in memory, where a sync does nothing.
    :raises pspf.errors.Usage: there is no workload of that name.
    """
    names = chosen(only)
    if records is not None and records < LEAST_RECORDS:
        raise errors.Usage("cannot measure", f"{records} records are too few, {LEAST_RECORDS} are the least")
    if records is None:
        records = QUICK_RECORDS if quick else RECORDS
    say = on_line or (lambda _: None)
    if not hasattr(os, "fdatasync"):
        raise errors.BadConfig("cannot measure here", "this platform has no fdatasync")
    directory = work_directory(dir)
    try:
        check_room(directory, records, quick)
        context = Context(directory, records, quick, environment(directory), say)
        return measure(context, names)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def chosen(only: Sequence[str] | None) -> list[str]:
    """The workloads to run, in their order."""
    for name in only or ():
        if name not in WORKLOADS:
            raise errors.Usage(f"no workload '{name}'", "", "", f"there are: {', '.join(WORKLOADS)}")
    return [name for name in WORKLOADS if not only or name in only]


def work_directory(dir: str | None) -> str:
    """An empty directory on a disk."""
    parent = dir if dir is not None else tempfile.gettempdir()
    try:
        kind, _ = machine.mount_of(parent)
        machine.refuse_memory(parent, kind, dir is not None)
        return tempfile.mkdtemp(prefix="pspf-bench-", dir=parent)
    except OSError as error:
        raise errors.from_os(error, "cannot measure", parent) from None


def check_room(directory: str, records: int, quick: bool) -> None:
    """Ten minutes of measuring must not end with a full disk."""
    need = ROOM_BESIDES[quick] + records * ROOM_FOR_A_RECORD
    free = shutil.disk_usage(directory).free
    if free < need:
        raise errors.IOFailed(
            "cannot measure",
            f"{need >> 20} MiB of room are needed, {free >> 20} MiB are free",
            os.path.dirname(directory),
            "less will do with: pspf bench --quick, or on another disk: --dir DIR",
        )


def measure(context: Context, names: Sequence[str]) -> list[Row]:
    """Run workloads, one after the other."""
    disk = machine.Disk(context.directory, context.size(machine.PROBE_BYTES, 32 << 20, 1 << 20))
    for line in disk.lines():
        context.say(line)
    rows = [
        row("disk", "written and synced", [disk.mb_per_s], "MB/s"),
        row("disk", "pwrite + fdatasync into zeros", [disk.sync_us], "µs"),
    ]
    for name in names:
        title, parts = WORKLOADS[name]
        context.say(f"{name}: {title}")
        start = perf_counter()
        for part in parts:
            rows += part(context)
        context.say(f"{name}: {perf_counter() - start:.0f} s")
    return rows


def main() -> None:
    """For developers: ``python -m pspf.bench.run [W1 …]`` prints Markdown, as docs/performance.md has it."""
    from pspf.bench.report import markdown

    arguments = sys.argv[1:]
    quick = "--quick" in arguments
    wanted = [argument for argument in arguments if argument != "--quick"]
    print(
        markdown(
            run(os.environ.get("BENCH_DIR"), wanted, quick, on_line=lambda line: print(line, file=sys.stderr))
        )
    )


if __name__ == "__main__":
    main()
