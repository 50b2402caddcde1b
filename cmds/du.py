"""``pspf du``: where the bytes of a store are."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.cli.main import Invocation
    from pspf.cli.options import Json, Topics

REPORTS = "usage"
EXIT_CODES = (0, 2, 65, 66, 74, 77, 78)
EXAMPLES = (
    ("pspf du", "bytes of each partition: log, indexes, other files, and what the disk gives up for them"),
    ("pspf du --json web | jq .log_bytes", "for a program"),
)
COLUMNS = (
    ("topic", "TOPIC", "text"),
    ("partition", "PARTITION", "number"),
    ("log_bytes", "LOG", "size"),
    ("index_bytes", "INDEX", "size"),
    ("other_bytes", "OTHER", "size"),
    ("allocated_bytes", "ON DISK", "size"),
    ("segments", "SEGMENTS", "number"),
)


def du(cli: Invocation, topics: Topics = None, json: Json = False) -> int:
    """Show how many bytes each partition takes.

    LOG are the records with their framing, INDEX what can be rebuilt, ON DISK what the file system has
    allocated, zeros written ahead included. Bytes are exact unless standard output is a terminal. A topic
    that cannot be opened is named, and the others are shown.
    """
    from pspf.cli.output import json_lines, table
    from pspf.cli.sweep import sweep

    store = cli.open()
    swept = sweep(
        cli,
        store,
        topics,
        lambda name: [{key: getattr(use, key) for key, _, _ in COLUMNS} for use in store.usage([name])],
    )
    rows = swept.rows
    if json:
        json_lines(rows)
        return swept.code
    if len(rows) > 1:
        total = {
            key: sum(row[key] for row in rows)
            for key, _, kind in COLUMNS
            if kind == "size" or key == "segments"
        }
        rows.append({"topic": "total", **total})
    table(cli, COLUMNS, rows)
    return swept.code
