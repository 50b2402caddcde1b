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
) -> None:
    """Print the headers of segments and batches.

    Nothing in it is trusted: a batch that fails its check is printed as far as it can be
    read, with the reason.
    """
    from pspf.cli.output import escape, json_lines

    for row in cli.open().inspect(target, partition, segment):
        if json:
            json_lines([row])
        else:
            # A topic's settings are a text of many lines: only where they stay one field.
            print(
                escape(
                    "  ".join(f"{name}={plain(value)}" for name, value in row.items() if name != "settings")
                )
            )


def plain(value: Any) -> str:
    """A field as text without blanks in it."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(plain, value)) or "-"
    return str(value).replace(" ", "_")
