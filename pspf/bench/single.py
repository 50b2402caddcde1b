"""W2, one record after the other, each on disk before the next; W5, a process for one record."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from time import perf_counter_ns

from pspf.bench import events, raw, sqlite
from pspf.bench.processes import command, must_succeed, timed
from pspf.bench.report import AT_MOST, interleave, percentile, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pspf.bench.context import Context
    from pspf.bench.report import Row
    from pspf.store.store import Store

TOPIC = "bench"


def single_appends(context: Context) -> list[Row]:
    """W2."""
    repeats = context.size(20, 8, 2)
    each = context.size(100, 50, 5)
    values = events.values(each)
    zeros = raw.zeroed(context.path("zeros"), (repeats + 1) * each * events.LINE_BYTES)
    growing = raw.create(context.path("growing"))
    database = sqlite.connect(context.path("w2.db"))
    positions = {zeros: 0, growing: 0}

    def plain(fd: int) -> list[int]:
        took = raw.appends(fd, values, positions[fd])
        positions[fd] += each * events.LINE_BYTES
        return took

    try:
        with context.store("w2") as store:
            took = interleave(
                repeats,
                {
                    "zeros": lambda: plain(zeros),
                    "growing": lambda: plain(growing),
                    "sqlite": lambda: sqlite.inserts(database, values, events.FIRST_MS),
                    "pspf": lambda: store_appends(store, values),
                },
            )
    finally:
        database.close()
        os.close(zeros)
        os.close(growing)
    context.remove("w2", "w2.db", "zeros", "growing")
    p50 = {name: [percentile(part, 50) / 1000 for part in parts] for name, parts in took.items()}
    p99 = {name: [percentile(chain(*parts), 99) / 1000] for name, parts in took.items()}
    in_zeros, in_growing = "pwrite + fdatasync into zeros", "append + fdatasync"
    return [
        row("W2", f"{in_zeros}, p50", p50["zeros"], "µs"),
        row("W2", "SQLite FULL insert, p50", p50["sqlite"], "µs"),
        row("W2", f"{in_growing}, p99", p99["growing"], "µs"),
        row("W2", "append, p50", p50["pspf"], "µs", (in_zeros, p50["zeros"]), (AT_MOST, 1.25)),
        row(
            "W2",
            "append, p50",
            p50["pspf"],
            "µs",
            ("SQLite FULL", p50["sqlite"]),
            (AT_MOST, 0.85),
        ),
        row("W2", "append, p99", p99["pspf"], "µs", (in_growing, p99["growing"]), (AT_MOST, 1.3)),
    ]


def store_appends(store: Store, values: Sequence[bytes]) -> list[int]:
    """Nanoseconds that each ``store.append`` takes."""
    took = []
    append, clock = store.append, perf_counter_ns
    for value in values:
        start = clock()
        append(TOPIC, value)
        took.append(clock() - start)
    return took


def one_process_a_record(context: Context) -> list[Row]:
    """W5."""
    nothing = context.path("nothing")
    with open(nothing, "w", encoding="utf-8") as file:
        file.write(f"#!{sys.executable}\nimport sys\nsys.exit(0)\n")
    os.chmod(nothing, 0o700)
    line = events.values(1)[0] + b"\n"
    append = [*command(), "append", "-q", "-s", context.path("w5"), TOPIC]
    timed(append, context.env, input=line)
    took = interleave(
        context.size(40, 10, 1),
        {
            "python": lambda: timed([sys.executable, "-c", "pass"], context.env, input=line),
            "nothing": lambda: timed([nothing], context.env, input=line),
            "os": lambda: timed([*append, "--durability", "os"], context.env, input=line),
            "pspf": lambda: timed(append, context.env, input=line),
        },
    )
    ms = {name: [second * 1000 for second in seconds] for name, seconds in took.items()}
    rows = [
        row("W5", "python -c pass", ms["python"], "ms"),
        row("W5", "a script that does nothing", ms["nothing"], "ms"),
        row(
            "W5",
            "pspf append, not synced",
            ms["os"],
            "ms",
            ("script that does nothing", ms["nothing"]),
        ),
        row(
            "W5",
            "pspf append",
            ms["pspf"],
            "ms",
            ("script that does nothing", ms["nothing"]),
            (AT_MOST, 1.4),
        ),
    ]
    if shutil.which("valgrind") and not context.tiny:
        empty = instructions(context, [sys.executable, "-c", "pass"], line)
        start = append if append[0] == sys.executable else [sys.executable, *append]
        ours = instructions(context, start, line)
        rows.append(row("W5", "python -c pass", [empty], "M instructions"))
        rows.append(
            row(
                "W5",
                "pspf append",
                [ours],
                "M instructions",
                ("python -c pass", [empty]),
                (AT_MOST, 1.25),
            )
        )
    else:
        context.say("W5: instructions are not counted (no valgrind)")
    context.remove("w5", "nothing")
    return rows


def instructions(context: Context, argv: list[str], line: bytes) -> float:
    """Millions of instructions that a command executes in user space."""
    log = context.path("callgrind")
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}"]
    ran = subprocess.run(
        [*valgrind, *argv],
        env={**context.env, "PYTHONHASHSEED": "0"},
        input=line,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    must_succeed(argv, ran.returncode, ran.stderr)
    with open(log, encoding="utf-8", errors="replace") as file:
        found = re.search(r"Collected : (\d+)", file.read())
    context.remove("callgrind")
    return int(found[1]) / 1e6 if found else 0.0
