"""W1, a million lines in; W3, all of them out again."""

from __future__ import annotations

import os
import subprocess
from time import perf_counter

from pspf import errors
from pspf.bench import events, raw, sqlite
from pspf.bench.processes import command, must_succeed, timed
from pspf.bench.report import AT_LEAST, interleave, row
from pspf.model import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pspf.bench.context import Context
    from pspf.bench.report import Row
    from pspf.store.store import Store

TOPIC = "bench"
BATCH_RECORDS = (1 << 20) // events.LINE_BYTES
"""What fits the megabyte that PSPF makes a batch of."""


def fresh_topic(context: Context) -> None:
    """A store with the topic, which holds one record: making them is not what is measured."""
    context.remove("bulk")
    with context.store("bulk") as store:
        store.append(TOPIC, b"first")


def check_count(context: Context, count: int) -> None:
    """A figure for records that are not there would be worth nothing."""
    with context.store("bulk") as store:
        reader = store.reader(TOPIC, 0)
        end = reader.end()
        reader.close()
    if end != count + 1:
        raise errors.IOFailed("cannot measure", f"{end} records in the topic instead of {count + 1}")


def lines_in(context: Context) -> list[Row]:
    """W1, from the command line."""
    count = context.records
    lines = context.path("lines")
    megabytes = events.write_file(lines, count) / 1e6
    append = [*command(), "append", "-q", "-s", context.path("bulk"), TOPIC, lines]

    def cat() -> float:
        start = perf_counter()
        fd = raw.create(context.path("copy"))
        timed(["cat", lines], context.env, stdout=fd)
        os.fdatasync(fd)
        os.close(fd)
        took = perf_counter() - start
        context.remove("copy")
        return megabytes / took

    def database() -> float:
        took = sqlite.import_lines(context.path("w1.db"), lines, context.env)
        sqlite.remove(context.path("w1.db"))
        return megabytes / took

    def pspf() -> float:
        fresh_topic(context)
        took = timed(append, context.env)
        check_count(context, count)
        return megabytes / took

    speed = interleave(context.size(7, 3, 1), {"cat": cat, "sqlite": database, "pspf": pspf})
    context.remove("lines", "bulk")
    importer = sqlite.importer()
    return [
        row("W1", "cat + fdatasync", speed["cat"], "MB/s"),
        row("W1", importer, speed["sqlite"], "MB/s"),
        row(
            "W1",
            "pspf append",
            speed["pspf"],
            "MB/s",
            ("cat + fdatasync", speed["cat"]),
            (AT_LEAST, 0.22),
        ),
        row(
            "W1",
            "pspf append",
            speed["pspf"],
            "MB/s",
            (importer, speed["sqlite"]),
            (AT_LEAST, 5),
        ),
    ]


def records_in(context: Context) -> list[Row]:
    """W1, from Python."""
    from pspf.store.feed import FeedOptions, feed

    count = context.records
    values = events.values(count)
    lines = context.path("lines")
    events.write_file(lines, count)

    def by_hand() -> float:
        took = raw.frame(context.path("framed"), values, BATCH_RECORDS)
        context.remove("framed")
        return count / took

    def database() -> float:
        took = sqlite.insert_all(context.path("w1.db"), values, events.FIRST_MS)
        sqlite.remove(context.path("w1.db"))
        return count / took

    def many() -> float:
        fresh_topic(context)
        with context.store("bulk") as store:
            store.append(TOPIC, b"opens the partition")
            start = perf_counter()
            store.append_many(TOPIC, values)
            took = perf_counter() - start
        check_count(context, count + 1)
        return count / took

    def fed() -> float:
        fresh_topic(context)
        with context.store("bulk") as store:
            store.append(TOPIC, b"opens the partition")
            start = perf_counter()
            feed(store, TOPIC, [lines], FeedOptions())
            took = perf_counter() - start
        check_count(context, count + 1)
        return count / took

    speed = interleave(
        context.size(7, 3, 1), {"by hand": by_hand, "sqlite": database, "append_many": many, "feed": fed}
    )
    context.remove("lines", "bulk")
    framed, sqlite_many = "framing by hand", "SQLite FULL executemany"
    unit, ours = "records/s", speed["append_many"]
    return [
        row("W1", framed, speed["by hand"], unit),
        row("W1", sqlite_many, speed["sqlite"], unit),
        row("W1", "append_many", ours, unit, (framed, speed["by hand"]), (AT_LEAST, 0.6)),
        row("W1", "append_many", ours, unit, (sqlite_many, speed["sqlite"]), (AT_LEAST, 4)),
        row("W1", "feed, from the file", speed["feed"], unit, (framed, speed["by hand"])),
    ]


def all_out(context: Context) -> list[Row]:
    """W3."""
    count = context.records
    values = events.values(count)
    raw.frame(context.path("framed"), values, BATCH_RECORDS)
    sqlite.insert_all(context.path("w3.db"), values, events.FIRST_MS)
    lines = context.path("lines")
    events.write_file(lines, count)
    with context.store("w3") as filled:
        filled.append_many(TOPIC, values, timestamps_ms=events.FIRST_MS)
    del values

    with context.store("w3") as store:
        speed = interleave(
            context.size(7, 3, 1),
            {
                "scan": lambda: count / scan(context.path("framed"), count),
                "scan to records": lambda: count / scan_to_records(context.path("framed"), count),
                "sqlite": lambda: count / select(context.path("w3.db"), count),
                "batches": lambda: count / read_batches(store, count),
                "records": lambda: count / read_records(store, count),
            },
        )
        cat = ["cat", lines]
        ours = [*command(), "cat", "-q", "-s", context.path("w3"), TOPIC]
        out = interleave(
            context.size(7, 3, 1),
            {
                "cat": lambda: count / piped_into_wc(cat, context.env, count),
                "pspf": lambda: count / piped_into_wc(ours, context.env, count),
            },
        )
    context.remove("framed", "w3", "lines")
    sqlite.remove(context.path("w3.db"))
    scanned, scanned_records, unit = "scan by hand", "scan by hand, a record object each", "records/s"
    return [
        row("W3", scanned, speed["scan"], unit),
        row("W3", scanned_records, speed["scan to records"], unit),
        row("W3", "SQLite select", speed["sqlite"], unit),
        row(
            "W3",
            "values, by batch",
            speed["batches"],
            unit,
            (scanned, speed["scan"]),
            (AT_LEAST, 0.6),
        ),
        row("W3", "values, by batch", speed["batches"], unit, ("SQLite select", speed["sqlite"])),
        row(
            "W3",
            "read, a Record each",
            speed["records"],
            unit,
            (scanned_records, speed["scan to records"]),
            (AT_LEAST, 0.6),
        ),
        row(
            "W3",
            "read, a Record each",
            speed["records"],
            unit,
            ("SQLite select", speed["sqlite"]),
            (AT_LEAST, 1),
        ),
        row("W3", "cat | wc -l", out["cat"], "lines/s"),
        row(
            "W3",
            "pspf cat | wc -l",
            out["pspf"],
            "lines/s",
            ("cat | wc -l", out["cat"]),
            (AT_LEAST, 0.4),
        ),
    ]


def must_be(count: int, wanted: int) -> None:
    """Whoever reads less is quicker."""
    if count != wanted:
        raise errors.IOFailed("cannot measure", f"{count} records read instead of {wanted}")


def scan(path: str, count: int) -> float:
    """Seconds for the values of all batches, by hand, each taken into the hand once."""
    start = perf_counter()
    seen = 0
    for _, values in raw.batches(path):
        for _value in values:
            pass
        seen += len(values)
    took = perf_counter() - start
    must_be(seen, count)
    return took


def scan_to_records(path: str, count: int) -> float:
    """The same, with an object for each that says topic, partition, offset and time."""
    start = perf_counter()
    seen = 0
    for first, values in raw.batches(path):
        for offset, value in enumerate(values, first):
            Record(TOPIC, 0, offset, events.FIRST_MS, None, value)
        seen += len(values)
    took = perf_counter() - start
    must_be(seen, count)
    return took


def select(path: str, count: int) -> float:
    """Seconds for all rows of the database."""
    took, seen = sqlite.select_all(path)
    must_be(seen, count)
    return took


def read_batches(store: Store, count: int) -> float:
    """Seconds for all values through the reader of the partition."""
    start = perf_counter()
    seen = 0
    reader = store.reader(TOPIC, 0)
    reader.seek(0)
    while batches := reader.read():
        for batch in batches:
            values = batch.columns().values()
            for _value in values:
                pass
            seen += len(values)
    reader.close()
    took = perf_counter() - start
    must_be(seen, count)
    return took


def read_records(store: Store, count: int) -> float:
    """Seconds for all records, an object each."""
    start = perf_counter()
    seen = 0
    for _ in store.read(TOPIC):
        seen += 1
    took = perf_counter() - start
    must_be(seen, count)
    return took


def piped_into_wc(argv: Sequence[str], env: dict[str, str], count: int) -> float:
    """Seconds for a command whose lines are counted."""
    start = perf_counter()
    source = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    counter = subprocess.Popen(["wc", "-l"], stdin=source.stdout, stdout=subprocess.PIPE)
    assert source.stdout is not None
    source.stdout.close()
    out, _ = counter.communicate()
    _, said = source.communicate()
    took = perf_counter() - start
    must_succeed(argv, source.returncode, said)
    must_be(int(out), count)
    return took
