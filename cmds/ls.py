"""``pspf ls``: the topics of a store."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pspf.cli.main import Invocation
    from pspf.cli.options import Json, Local, Topics
    from pspf.store.describe import TopicStats

REPORTS = "topic-stats"
EXIT_CODES = (0, 2, 65, 66, 74, 77, 78)
EXAMPLES = (
    ("pspf ls", "every topic: partitions, records, bytes, first and last time"),
    ("pspf ls --json web", "one topic, for a program"),
)
COLUMNS = (
    ("topic", "TOPIC", "text"),
    ("partitions", "PARTITIONS", "number"),
    ("records", "RECORDS", "number"),
    ("bytes", "BYTES", "size"),
    ("first_ms", "FIRST", "time"),
    ("last_ms", "LAST", "time"),
)


def ls(cli: Invocation, topics: Topics = None, json: Json = False, local: Local = False) -> int:
    """List topics with their records, bytes, and times.

    RECORDS counts offsets, gaps included: at least as many as there are records. FIRST is the earliest time
    in the first batches of the partitions and LAST the latest in their last; where times are out of order,
    others may lie outside. Bytes are exact unless standard output is a terminal.
    """
    from pspf.cli.output import json_lines, table
    from pspf.cli.sweep import sweep

    store = cli.open()
    swept = sweep(cli, store, topics, lambda name: [stats_row(store.stats(name))])
    if json:
        json_lines(swept.rows)
    else:
        table(cli, COLUMNS, swept.rows, local)
    return swept.code


def stats_row(stats: TopicStats) -> dict[str, Any]:
    """One line of the list."""
    return {
        "topic": stats.name,
        "partitions": stats.partitions,
        "records": stats.records,
        "bytes": stats.bytes,
        "first_ms": stats.first_ms,
        "last_ms": stats.last_ms,
    }
