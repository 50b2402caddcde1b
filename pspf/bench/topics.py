"""W11: a store with many topics and partitions: listing them, and appending to one."""

from __future__ import annotations

from time import perf_counter

import pspf
from pspf.bench import events
from pspf.bench.disks import CountingDisk, UnsyncedDisk
from pspf.bench.processes import command, timed
from pspf.bench.report import AT_MOST, EQUAL, interleave, row
from pspf.store.open import open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.bench.context import Context
    from pspf.bench.report import Row

FEW = 10
PARTITIONS = 10
ONE = "topic-00003"


def many_topics(context: Context) -> list[Row]:
    """W11."""
    many = context.size(1000, 100, 12)
    for count in (FEW, many):
        make_topics(context.path(f"w11-{count}"), count)
    calls = {count: calls_of_append(context.path(f"w11-{count}")) for count in (FEW, many)}
    line = events.values(1)[0] + b"\n"

    def append(count: int) -> float:
        argv = [*command(), "append", "-q", "-p", "0", "-s", context.path(f"w11-{count}"), ONE]
        return timed(argv, context.env, input=line) * 1000

    def listed(count: int) -> float:
        return timed([*command(), "ls", "-s", context.path(f"w11-{count}")], context.env) * 1000

    took = interleave(
        context.size(10, 5, 1),
        {
            "append few": lambda: append(FEW),
            "append many": lambda: append(many),
            "stats few": lambda: us_per_partition(context.path(f"w11-{FEW}"), FEW),
            "stats many": lambda: us_per_partition(context.path(f"w11-{many}"), many),
        },
    )
    lists = interleave(context.size(3, 2, 1), {"few": lambda: listed(FEW), "many": lambda: listed(many)})
    context.remove(f"w11-{FEW}", f"w11-{many}")
    to, name = f"with {FEW} topics", f"{many} topics, {many * PARTITIONS} partitions"
    per = "µs/partition"
    return [
        row(
            "W11",
            f"append to one of {name}",
            [float(calls[many])],
            "system calls",
            (to, [float(calls[FEW])]),
            (EQUAL, 1),
        ),
        row("W11", f"pspf append, {name}", took["append many"], "ms", (to, took["append few"])),
        row("W11", f"stats of all, {name}", took["stats many"], per, (to, took["stats few"]), (AT_MOST, 1.5)),
        row("W11", f"pspf ls, {name}", lists["many"], "ms", (to, lists["few"])),
    ]


def make_topics(path: str, count: int) -> None:
    """``count`` topics of ten partitions, a record in each."""
    config = pspf.TopicConfig(partitions=PARTITIONS)
    with open_store(path, disk=UnsyncedDisk()) as store:
        for number in range(count):
            name = f"topic-{number:05}"
            store.create_topic(name, config)
            for partition in range(PARTITIONS):
                store.append(name, b"one", partition=partition)


def calls_of_append(path: str) -> int:
    """Calls to the disk of opening the store and one append."""
    disk = CountingDisk()
    with open_store(path, disk=disk) as store:
        store.append(ONE, b"one", partition=0)
    return disk.total


def us_per_partition(path: str, count: int) -> float:
    """Microseconds for what ``pspf ls`` shows, by partition."""
    start = perf_counter()
    with pspf.open(path, read_only=True) as store:
        names = store.topics()
        assert len(names) == count
        for name in names:
            store.stats(name)
    return (perf_counter() - start) * 1e6 / (count * PARTITIONS)
