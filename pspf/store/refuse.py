"""What ``pspf append`` refuses or leaves out: apart from the rest, since most appends need none of it."""

import pspf
from pspf.model import CHOICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.store.feed import Feed, FeedReport
    from pspf.store.topics import Topic


def check_field(topic: str, field: str) -> None:
    """Refuse a path of no name, under which every value would be without a time.

    :raises pspf.errors.Usage: it is one.
    """
    if not field.strip("."):
        why = f"--timestamp-field {field!r} names no field"
        raise pspf.errors.Usage(f"cannot append to '{topic}'", why, "", "--timestamp-field .path.to.it")


def check_expectation(topic: "Topic") -> None:
    """Refuse an offset that is expected of a topic as a whole: each partition has its own.

    :raises pspf.errors.Usage: it has several partitions.
    """
    partitions = topic.config.partitions
    if partitions > 1:
        raise pspf.errors.Usage(
            f"cannot append to '{topic.name}'",
            f"--expect-offset is about one partition, and the topic has {partitions} partitions",
            "",
            "name the one with: -p N",
        )


def check_sequence(topic: str, producer: "str | None", sequence: object) -> None:
    """Refuse a sequence of :meth:`pspf.store.store.Store.append` that counts nothing.

    :raises pspf.errors.Usage: it has no producer, or is no count.
    """
    what = f"cannot append to '{topic}'"
    if producer is None:
        raise pspf.errors.Usage(what, "a sequence needs a producer that it counts for")
    if not isinstance(sequence, int) or sequence < 0:
        raise pspf.errors.Usage(what, f"sequence {sequence!r} is no count: it begins at 0")


def no_durability(topic: str, level: str) -> "pspf.errors.Usage":
    """The error for a level that there is not."""
    levels = ", ".join(CHOICES["durability"])
    return pspf.errors.Usage(f"cannot append to '{topic}'", f"durability {level!r} is none of: {levels}")


def left_out(report: "FeedReport", where: str) -> None:
    """A malformed record was; it stood ``where``."""
    report.invalid += 1
    if report.invalid == 1:
        report.first_invalid = where


def too_large(feed: "Feed", size: int, where: str) -> "pspf.errors.RecordTooLarge":
    """The error for a record that is above the topic's limit."""
    name = feed.topic.name
    return pspf.errors.RecordTooLarge(
        f"cannot append to '{name}'",
        f"a record of at least {size} bytes is above max_record_bytes ({feed.topic.config.max_record_bytes})",
        where,
        f"pspf topic alter {name} --max-record-bytes {size}",
    )


def drop(feed: "Feed", data: bytes, last: bool, name: str) -> bytes:
    """Leave out a record that is too large to be held, piece by piece; what may lie behind it.

    :raises pspf.errors.RecordTooLarge: nothing is to be left out.
    """
    options, intake = feed.options, feed.intake
    line = 1 + (feed.line if name == feed.name else 0)
    where = f"{name}, line {line}" if intake is None else intake.next_record(name)
    if not options.skip_invalid:
        raise too_large(feed, len(data), where)
    separator = b"\n" if options.json else options.separator
    at = -1 if options.whole else data.find(separator)
    # Of a separator that is not there yet as a whole, the beginning may be.
    used = len(data) if last or options.whole else max(len(data) - len(separator) + 1, 0)
    if at >= 0:
        used = at + len(separator)
    ended = last or at >= 0
    feed.dropped = 0 if ended else feed.dropped + used
    if ended:
        left_out(feed.report, where)
    if intake is not None:
        intake.drop(data[:used], ended, name)
    elif ended:
        feed.name, feed.line = name, line
    return data[used:]


def around_large(feed: "Feed", region: bytes, lines: "list[bytes]") -> None:
    """The lines between those that are too large; the first of them is an error, unless they are left out."""
    limit = feed.topic.config.max_record_bytes
    start = first = at = 0
    for number, line in enumerate([*lines, b""]):
        if number < len(lines) and len(line) <= limit:
            at += len(line) + 1
            continue
        if number > first:
            feed.put_lines(region[start:at], lines[first:number])
        if number == len(lines):
            return
        where = f"{feed.name}, line {feed.line + number + 1}"
        if not feed.options.skip_invalid:
            raise too_large(feed, len(line), where)
        left_out(feed.report, where)
        at += len(line) + 1
        start, first = at, number + 1


def counted(records: int) -> str:
    """``1 record before it was``, ``7 records before it were``."""
    return "1 record before it was" if records == 1 else f"{records} records before it were"
