"""``pspf bench``: measures this machine's limits, SQLite, and PSPF in one run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from pspf.cli.main import Invocation
    from pspf.cli.options import Json

REPORTS = "measurement"
EXIT_CODES = (0, 2, 74, 77, 78, 130, 143)
EXAMPLES = (
    ("pspf bench --quick", "a first look, in about a minute"),
    ("pspf bench --only W1,W2 --dir /mnt/disk", "two workloads on the disk that matters"),
)
COLUMNS = (
    ("workload", "WORKLOAD", "text"),
    ("metric", "METRIC", "text"),
    ("value", "VALUE", "number"),
    ("unit", "UNIT", "text"),
    ("spread", "SPREAD", "number"),
    ("ratio", "RATIO", "number"),
    ("ratio_to", "TO", "text"),
    ("goal", "GOAL", "text"),
    ("met", "MET", "text"),
)


def bench(
    cli: Invocation,
    only: Annotated[
        str | None, typer.Option("--only", metavar="W1,W2…", help="These workloads only.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer records and repeats; the spread is wider.")
    ] = False,
    records: Annotated[
        int | None,
        typer.Option("--records", metavar="N", min=0, help="So many records instead of a million."),
    ] = None,
    dir: Annotated[
        str | None, typer.Option("--dir", metavar="DIR", help="Measure on the disk that holds DIR.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure this machine, SQLite and PSPF side by side.

    Prints medians, their spread, and ratios. Each goal is a ratio to something measured in the same run on
    the same disk; it works in a directory that it removes afterwards, and never touches a store.
    """
    from pspf.bench.run import run
    from pspf.cli.cleanup import clean_up_on_termination
    from pspf.cli.output import json_lines, table

    workloads = None
    if only is not None:
        workloads = [name.strip().upper() for name in only.split(",") if name.strip()]
    if workloads == [] or dir == "":
        from pspf.cli.failure import empty

        raise empty("--only", "pspf bench --only W1,W2") if not workloads else empty("--dir", "--dir DIR")
    clean_up_on_termination()
    rows = run(dir, workloads, quick, records, on_line=cli.note)
    if json:
        json_lines(rows)
        return
    shown = [{key: readable(row.get(key)) for key, _, _ in COLUMNS} for row in rows]
    table(cli, COLUMNS, shown)


def readable(value: object) -> object:
    """A figure with four digits; whether a goal is met, in a word."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else value
