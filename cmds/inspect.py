"""``pspf inspect``: the bytes of a segment, batch by batch."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any

    import typer

    from pspf.cli.main import Invocation
    from pspf.cli.options import Json

REPORTS = "batch"
EXIT_CODES = (0, 2, 65, 66, 74, 77, 78, 141)
EXAMPLES = (
    ("pspf inspect web", "partition 0, segment by segment"),
    ("pspf inspect -p 2 --segment 0 --json web", "one segment, each batch as a JSON object"),
    ("pspf inspect 00000000000000000000.log", "a file, wherever it is"),
)


def inspect(
    cli: Invocation,
    target: Annotated[
        str, typer.Argument(metavar="TOPIC|FILE", help="A topic, or the path of a segment file.")
    ],
    partition: Annotated[
        int, typer.Option("-p", "--partition", metavar="N", min=0, help="Partition of the topic.")
    ] = 0,
    segment: Annotated[
        int | None,
        typer.Option("--segment", metavar="OFFSET", min=0, help="Only the segment that holds OFFSET."),
    ] = None,
    json: Json = False,
) -> int:
    """Print the headers of segments and batches.

    Of a topic, every segment of one partition; of a file, which need not be in a store, that one. Nothing in
    it is trusted: a batch that fails its check is printed as far as it can be read, with the reason.
    """
    from os.path import isfile

    from pspf.cli.failure import empty, show
    from pspf.cli.output import escape, json_lines
    from pspf.errors import Damaged
    from pspf.format.segment import base_of
    from pspf.store.inspect import NEWER, inspect_file

    if not target:
        raise empty("TOPIC|FILE", "pspf inspect TOPIC, or a path")
    if "/" in target or (base_of(target) >= 0 and isfile(target)):
        rows = inspect_file(target)  # for which no store need be there
    else:
        rows = cli.open().inspect(target, partition, segment)
    strange = False
    for row in rows:
        if row["type"] == "segment" and row["header"] != "ok" and row.get("segment_id") is None:
            strange = strange or row["header"] != NEWER
        if json:
            json_lines([row])
        else:
            # A topic's settings are a text of many lines: only where they stay one field.
            print(
                escape(
                    "  ".join(f"{name}={plain(value)}" for name, value in row.items() if name != "settings")
                )
            )
    if strange:
        why = "neither its header nor any batch in it can be read"
        return show(Damaged(f"{target} is no segment of PSPF", why, "", "pspf inspect TOPIC, or a path"))
    return 0


def plain(value: Any) -> str:
    """A field as text without blanks in it."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(plain, value)) or "-"
    return str(value).replace(" ", "_")
