"""``pspf append``: lines, or records in another form, into a topic.

On the fast path: even ``from __future__ import annotations`` is left out, since it is a module to import.
"""

from os import isatty
from sys import stdout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.cli.main import Invocation
    from pspf.cli.options import (
        Ack,
        AppendDurability,
        ExpectOffset,
        Files,
        Headers,
        InputJson,
        InputKeySeparator,
        InputNul,
        InputSeparator,
        IntoPartition,
        NewSource,
        NoCreate,
        NoKeyOk,
        NullEmpty,
        Preserve,
        Producer,
        SkipInvalid,
        Timestamp,
        TimestampField,
        Topic,
        Whole,
        WithKey,
    )
    from pspf.model import Appended
    from pspf.store.feed import FeedReport

REPORTS = "appended"
EXIT_CODES = (0, 1, 2, 65, 66, 73, 74, 75, 77, 78, 130, 143)
CONFLICTS = (
    ("nul", "separator", "whole", "json"),
    ("key", "key_separator"),
    ("key_separator", "json"),
    ("timestamp", "timestamp_field", "preserve"),
    ("partition", "preserve"),
    ("expect_offset", "preserve"),
    ("producer", "preserve"),
)
NEEDS = (("preserve", "json"), ("new_source", "producer"), ("no_key_ok", "key_separator"))
EXAMPLES = (
    ("cat access.log | pspf append web", "each line becomes a record; store and topic are created"),
    ("pspf append orders -K : orders.txt", "what stands before the first colon is the key"),
    ("pspf append photos -w a.jpg b.jpg", "each file becomes one record"),
    ("pspf append --producer nightly flights flights.csv", "run again after a crash: nothing twice"),
)


def append(
    cli: "Invocation",
    topic: "Topic",
    files: "Files" = None,
    nul: "InputNul" = False,
    separator: "InputSeparator" = None,
    whole: "Whole" = False,
    json: "InputJson" = False,
    preserve: "Preserve" = False,
    null_empty: "NullEmpty" = False,
    skip_invalid: "SkipInvalid" = False,
    key_separator: "InputKeySeparator" = None,
    no_key_ok: "NoKeyOk" = False,
    key: "WithKey" = None,
    header: "Headers" = None,
    partition: "IntoPartition" = None,
    timestamp: "Timestamp" = None,
    timestamp_field: "TimestampField" = None,
    durability: "AppendDurability" = None,
    ack: "Ack" = False,
    producer: "Producer" = None,
    new_source: "NewSource" = False,
    expect_offset: "ExpectOffset" = None,
    no_create: "NoCreate" = False,
) -> int:
    """Append records to a topic; each line of the input is one.

    Exit 0 means that all of it is on disk (with the topic's durability sync). While input flows, batches
    grow; when it pauses, what is there is made durable at once. A last line without its newline is a
    record, an empty line is an empty record, and a carriage return belongs to the value. When record N is
    malformed, everything before it is appended and durable, N and what follows is not. On SIGINT or SIGTERM
    complete lines are made durable; an unfinished one is not appended, and said.
    """
    from pspf.cli.signals import stop_cleanly
    from pspf.store.feed import FeedOptions, feed

    record_end = b"\n"
    key_end = None
    headers: "tuple[tuple[str, bytes | None], ...]" = ()
    timestamp_ms = None
    if nul:
        record_end = b"\0"
    if separator is not None or key_separator is not None or header is not None or timestamp is not None:
        # Conversions that most calls do without stand in modules of their own.
        from pspf.cli.text import headers_of, separator_bytes

        if separator is not None:
            record_end = separator_bytes("-D", separator)
        if key_separator is not None:
            key_end = separator_bytes("-K", key_separator)
        if header is not None:
            headers = headers_of(header)
        if timestamp is not None:
            from pspf.store.select import parse_time

            timestamp_ms = parse_time(timestamp)
    if files:
        from pspf.cli.text import demand_files

        demand_files(files)
    if isatty(0) and (not files or "-" in files):
        cli.note(f"reading records for {topic} from this terminal; Ctrl-D on an empty line ends the input")
    stop = stop_cleanly()
    report = feed(
        cli.open(create=not no_create),
        topic,
        files or [],
        FeedOptions(
            separator=record_end,
            key_separator=key_end,
            key=None if key is None else key.encode("utf-8", "surrogateescape"),
            key_optional=no_key_ok,
            partition=partition,
            headers=headers,
            null_empty=null_empty,
            whole=whole,
            json=json,
            preserve=preserve,
            timestamp_ms=timestamp_ms,
            timestamp_field=timestamp_field,
            durability=durability,
            producer=producer,
            new_source=new_source,
            expect_offset=expect_offset,
            skip_invalid=skip_invalid,
            create=not no_create,
        ),
        acknowledge if ack else None,
        cli.note_created,
        stop,
    )
    if report.invalid:
        from pspf.cli.text import counted

        told = f"skipped {counted(report.invalid, 'malformed record')}, appended {report.records}"
        cli.warn(f"{told}; the first: {report.first_invalid}")
    if report.interrupted:
        from pspf.cli.text import counted

        told = f"stopped: {counted(report.records, 'record')} appended"
        if report.partial:
            cli.warn(f"{told}; an unfinished one of {counted(report.partial, 'byte')} was not")
        else:
            cli.note(told)
        return -stop.number
    if report.invalid:
        return 1
    if cli.talks():
        tell_success(cli, topic, report)
    return 0


def tell_success(cli: "Invocation", topic: str, report: "FeedReport") -> None:
    """What was appended, and what a producer had appended before."""
    from pspf.cli.text import counted

    told = f"appended {counted(report.records, 'record')} to {topic}"
    before = report.skipped + report.duplicates
    cli.note(f"{told}; {counted(before, 'record')} had been appended before" if before else told)


def acknowledge(batch: "Appended") -> None:
    """One line on standard output, at once, for a batch that is durable. A topic's name needs no escaping."""
    stdout.write(
        f'{{"topic":"{batch.topic}","partition":{batch.partition},"first":{batch.first},"last":{batch.last},'
        f'"durability":"{batch.durability}"}}\n'
    )
    stdout.flush()
