"""Options of ``cat`` and ``tail`` turned into what the library calls take."""

from __future__ import annotations

from pspf.errors import Usage
from pspf.store.emit import OutputFormat
from pspf.store.select import Selection, parse_offsets, parse_partitions, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pspf.errors import Damaged


def selection_of(
    offset: list[str] | None,
    partition: str | None,
    key: str | None,
    since: str | None,
    until: str | None,
    count: int | None,
    by_partition: bool,
    skip_damaged: bool,
) -> Selection:
    """The records that the options select."""
    for where in offset or ():
        if where[:1] == "-" and not where[1:2].isdigit():
            raise Usage(f"-o {where}: an offset is missing before {where}", hint=f"-o start {where}")
    return Selection(
        partitions=None if partition is None else parse_partitions(partition),
        ranges=parse_offsets(offset or []),
        since_ms=None if since is None else parse_time(since),
        until_ms=None if until is None else parse_time(until),
        key=None if key is None else key.encode("utf-8", "surrogateescape"),
        limit=count,
        by_partition=by_partition,
        skip_damaged=skip_damaged,
    )


def output_format_of(
    nul: bool,
    separator: str | None,
    key_separator: str | None,
    null: str | None,
    format: str | None,
    json: bool,
    raw: bool,
) -> OutputFormat:
    """How the options say that records are printed."""
    from pspf.cli.text import separator_bytes

    record_end = b"\n"
    if nul:
        record_end = b"\0"
    elif separator is not None:
        record_end = separator_bytes("-D", separator)
    return OutputFormat(
        separator=record_end,
        key_separator=None if key_separator is None else separator_bytes("-K", key_separator),
        null=None if null is None else null.encode("utf-8", "surrogateescape"),
        format=format,
        json=json,
        raw=raw,
    )


def how_many(lines: str | None, begins_elsewhere: bool) -> tuple[int | None, int | None]:
    """``-n`` as (the last so many, from the so-manieth), one of them None."""
    if lines is None:
        return (None if begins_elsewhere else 10), None
    digits = lines[1:] if lines[:1] in ("+", "-") else lines
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise Usage(f"-n {lines} is no number of records", hint="-n 20, or -n +20 to begin with the 20th")
    number = int(digits)
    return (None, number) if lines[0] == "+" else (number, None)


def tell_damage(damage: Sequence[Damaged]) -> int:
    """Name every damaged range on standard error; exit code 65."""
    from pspf.cli.failure import show

    for error in damage:
        show(error)
    return 65
