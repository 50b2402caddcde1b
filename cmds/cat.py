"""``pspf cat``: the records of a topic, from its beginning to its end."""

TYPE_CHECKING = False
if TYPE_CHECKING:
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
EXIT_CODES = (0, 2, 65, 66, 74, 77, 78, 130, 141)
CONFLICTS = (("nul", "separator", "format", "json"), ("key_separator", "format", "json"), ("null", "json"))
EXAMPLES = (
    ("pspf cat web | wc -l", "all records, each on a line"),
    ("pspf cat orders -o -10 -K :", "the last ten of each partition, with their keys"),
    ("pspf cat orders --since 1h --json", "the last hour, with everything that is known of each record"),
    (
        "pspf cat --json orders | pspf -s copy append --json --preserve orders",
        "an exact copy in another store",
    ),
)


def cat(
    cli: "Invocation",
    topic: "Topic",
    offset: "Offsets" = None,
    partition: "Partitions" = None,
    key: "SelectKey" = None,
    since: "Since" = None,
    until: "Until" = None,
    count: "Count" = None,
    skip_damaged: "SkipDamaged" = False,
    nul: "Nul" = False,
    separator: "Separator" = None,
    key_separator: "KeySeparator" = None,
    null: "Null" = None,
    format: "Format" = None,
    json: "JsonRecords" = False,
    by_partition: "ByPartition" = False,
    raw: "Raw" = False,
) -> int:
    """Print the records of a topic and stop at its end.

    The value and a newline, unless an option says otherwise. Partitions are merged by time, least timestamp
    first; order is guaranteed within a partition only. Where stored bytes are damaged, that partition stops,
    the others go on, and the exit code is 65.
    """
    from pspf.cli.main import allow_files
    from pspf.store.emit import OutputFormat, emit

    selection = None
    if by_partition or skip_damaged or any_given(offset, partition, key, since, until, count):
        from pspf.cli.selecting import selection_of

        selection = selection_of(offset, partition, key, since, until, count, by_partition, skip_damaged)
    if nul or any_given(separator, key_separator, null):
        from pspf.cli.selecting import output_format_of

        output = output_format_of(nul, separator, key_separator, null, format, json, raw)
    else:
        output = OutputFormat(format=format, json=json, raw=raw)
    report = emit(cli.open(), topic, selection, output, on_note=cli.warn, more_files=allow_files)
    if report.damage:
        from pspf.cli.selecting import tell_damage

        return tell_damage(report.damage)
    return 0


def any_given(*values: object) -> bool:
    """Whether any option was given: what it would need is imported only then."""
    return values.count(None) < len(values)
