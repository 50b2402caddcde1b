"""SQLite from the standard library, as somebody would use it for a log: WAL, ``synchronous=FULL``.

FULL is the level at which a commit is on disk when it returns, as PSPF's ``sync`` is; in WAL mode SQLite's
NORMAL is not.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from time import perf_counter, perf_counter_ns

from pspf.bench.processes import timed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS events "
    "(offset INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, value BLOB NOT NULL)"
)
INSERT = "INSERT INTO events (timestamp_ms, value) VALUES (?, ?)"
SELECT = "SELECT offset, timestamp_ms, value FROM events ORDER BY offset"
BUSY_TIMEOUT_S = 120


def connect(path: str) -> sqlite3.Connection:
    """A connection without implicit transactions; file and table are made."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(SCHEMA)
    return connection


def remove(path: str) -> None:
    """The database and what belongs to it."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass


def insert_all(path: str, values: Sequence[bytes], timestamp_ms: int) -> float:
    """Seconds for ``executemany`` in one transaction."""
    connection = connect(path)
    try:
        start = perf_counter()
        connection.execute("BEGIN")
        connection.executemany(INSERT, [(timestamp_ms, value) for value in values])
        connection.execute("COMMIT")
        return perf_counter() - start
    finally:
        connection.close()


def select_all(path: str) -> tuple[float, int]:
    """Seconds to read all rows one by one, and how many."""
    connection = connect(path)
    try:
        start = perf_counter()
        count = 0
        for _ in connection.execute(SELECT):
            count += 1
        return perf_counter() - start, count
    finally:
        connection.close()


def inserts(connection: sqlite3.Connection, values: Sequence[bytes], timestamp_ms: int) -> list[int]:
    """Nanoseconds that each insert takes, a transaction each."""
    took = []
    execute, clock = connection.execute, perf_counter_ns
    for value in values:
        start = clock()
        execute(INSERT, (timestamp_ms, value))
        took.append(clock() - start)
    return took


def importer() -> str:
    """What :func:`import_lines` runs, for the report."""
    return "sqlite3 .import" if shutil.which("sqlite3") else "python sqlite3 import (no sqlite3 command)"


def import_lines(path: str, file: str, env: dict[str, str]) -> float:
    """Seconds for a process that takes the lines of ``file`` into a new table, a row each."""
    program = shutil.which("sqlite3")
    if program is not None:
        setup = ["PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE lines (value TEXT)"]
        # A separator that is in no line, so that a line is one column, and nothing is taken for a quote.
        words = [".mode ascii", '.separator "\\037" "\\n"', f'.import "{file}" lines']
        argv = [program, "-batch", path]
        return timed([*argv, *setup, *words], env, stdout=subprocess.DEVNULL)
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA journal_mode=WAL'); c.execute('PRAGMA synchronous=FULL');"
        "c.execute('CREATE TABLE lines (value TEXT)'); c.execute('BEGIN');"
        "c.executemany('INSERT INTO lines VALUES (?)', ((l[:-1],) for l in open(sys.argv[2])));"
        "c.execute('COMMIT'); c.close()"
    )
    return timed([sys.executable, "-c", script, path, file], env)
