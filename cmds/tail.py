"""``pspf tail``: the last records of a topic, and those that are still to come."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from pspf.cli.main import Invocation
    from pspf.cli.options import (
        ByPartition,
        Count,
        Format,
        JsonRecords,
        KeySeparator,
        Nul,
        Null,
        Offsets,
        Partitions,
        Raw,
        SelectKey,
        Separator,
        Since,
        SkipDamaged,
        Topic,
        Until,
    )

REPORTS = "record"
EXIT_CODES = (0, 2, 65, 66, 74, 77, 78, 130, 141, 143)
CONFLICTS = (
    ("nul", "separator", "format", "json"),
    ("key_separator", "format", "json"),
    ("null", "json"),
    ("lines", "offset", "since"),
)
EXAMPLES = (
    ("pspf tail -f web", "the last ten records, then each new one as it becomes durable"),
    ("pspf tail -n 1 web", "the last record"),
    ("pspf tail -f -n 0 orders --key 4711", "only what is new for one key"),
)


def tail(
    cli: Invocation,
    topic: Topic,
    lines: Annotated[
        str | None,
        typer.Option("-n", "--lines", metavar="N", help="The last N records (10); +N begins with the Nth."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("-f", "--follow", help="Go on with what is appended; waits for a topic to be created."),
    ] = False,
    retry: Annotated[bool, typer.Option("-F", "--retry", help="The same as -f.")] = False,
    offset: Offsets = None,
    partition: Partitions = None,
    key: SelectKey = None,
    since: Since = None,
    until: Until = None,
    count: Count = None,
    skip_damaged: SkipDamaged = False,
    nul: Nul = False,
    separator: Separator = None,
    key_separator: KeySeparator = None,
    null: Null = None,
    format: Format = None,
    json: JsonRecords = False,
    by_partition: ByPartition = False,
    raw: Raw = False,
) -> int:
    """Print the last records of a topic, and follow it.

    The last ten of all its partitions together, or -n. With -f it goes on and prints records as they become
    durable, until it is interrupted or the topic is deleted. With -o or --since it begins there instead.
    """
    from pspf.cli.main import allow_files
    from pspf.cli.selecting import how_many, output_format_of, selection_of, tell_damage
    from pspf.store.emit import emit

    last, nth = how_many(lines, offset is not None or since is not None)
    report = emit(
        cli.open(),
        topic,
        selection_of(offset, partition, key, since, until, count, by_partition, skip_damaged),
        output_format_of(nul, separator, key_separator, null, format, json, raw),
        follow=follow or retry,
        last=last,
        from_nth=nth,
        on_note=cli.warn,
        more_files=allow_files,
    )
    return tell_damage(report.damage) if report.damage else 0
