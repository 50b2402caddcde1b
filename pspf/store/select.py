"""Which records of a topic are meant: the grammar of ``-o``, ``-p``, ``--since`` and ``--until``.

Parsing knows no store: it turns words into :class:`Selection`. :func:`resolve` then asks one partition's
reader where that begins and ends. Several ``-o`` narrow each other: the latest beginning and the earliest end
count.

==================  ====================================================================================
``N``               from offset N
``N1:N2``           from N1 up to, and without, N2; either may be missing, or any of the next four
``+N``              N offsets behind the log start
``-N``              N records before the end
``start``           the log start; ``beginning`` and ``stored`` (there is no group here) are the same
``end``             the end: nothing now, and when following only what is new
``@T``, ``s@T``     from the first record whose timestamp is at least T
``e@T``             up to, and without, the first record whose timestamp is at least T
==================  ====================================================================================
"""

from datetime import UTC

from pspf.errors import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypedDict

    from pspf.errors import Damaged
    from pspf.log.reader import PartitionReader
    from pspf.store.merge import Cursor

    Bound = tuple[str, str, int]

    class SelectionOptions(TypedDict, total=False):
        """What :class:`Selection` takes."""

        partitions: Iterable[int] | str | None
        ranges: Sequence[Bound | str] | str
        since_ms: int | None
        until_ms: int | None
        key: bytes | str | None
        limit: int | None
        by_partition: bool
        skip_damaged: bool

    class ReadOptions(SelectionOptions, total=False):
        """What ``Store.read`` takes."""

        on_note: Callable[[str], None] | None
        on_damage: Callable[[Damaged], None] | None

    class TailOptions(ReadOptions, total=False):
        """What ``Store.tail`` takes."""

        stop: Callable[[], bool] | None


FROM = "from"
TO = "to"
MAX_PARTITIONS = 10_000
_MAX_OFFSET = (1 << 63) - 1
_WORDS = {"start": "start", "beginning": "start", "stored": "start", "end": "end"}
_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_OFFSET_HINT = "-o takes N, N1:N2, :N2, N1:, +N, -N, start, end, @TIME or e@TIME"
_TIME_HINT = (
    "a time is 2026-01-31T12:00:00Z, 2026-01-31, epoch milliseconds, 15m, 1h, 2d, today, yesterday or now"
)


class Selection:
    """Which records of a topic are read. Without arguments: all of them, merged.

    :param partitions: only these, as numbers or as ``-p`` takes them; None: all.
    :param ranges: what :func:`parse_offsets` gives, or the texts that it takes, or one of them.
    :param since_ms: from the first record whose timestamp is at least this, ms since the epoch.
    :param until_ms: up to, and without, the first record whose timestamp is at least this.
    :param key: only records of this key, looked for where the present and each earlier number of partitions
        place it, or in ``partitions`` where they are named.
    :param limit: at most so many records of the merged output.
    :param by_partition: one partition after the other instead of merged.
    :param skip_damaged: step over damaged ranges instead of ending the partition there.
    :raises pspf.errors.Usage: an argument that means nothing.
    """

    __slots__ = (
        "by_partition",
        "key",
        "limit",
        "partitions",
        "ranges",
        "since_ms",
        "skip_damaged",
        "until_ms",
    )

    def __init__(
        self,
        partitions: "Iterable[int] | str | None" = None,
        ranges: "Sequence[Bound | str] | str" = (),
        since_ms: "int | None" = None,
        until_ms: "int | None" = None,
        key: "bytes | str | None" = None,
        limit: "int | None" = None,
        by_partition: bool = False,
        skip_damaged: bool = False,
    ) -> None:
        self.partitions = None if partitions is None else _numbers(partitions)
        bounds: "list[Bound]" = []
        for bound in [ranges] if isinstance(ranges, str) else ranges:
            bounds += parse_offsets([bound]) if isinstance(bound, str) else [bound]
        self.ranges = bounds
        self.since_ms = since_ms
        self.until_ms = until_ms
        self.key = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
        if key is not None and not isinstance(self.key, bytes):
            raise Usage(f"a key is bytes or str, not {type(key).__name__}")
        self.limit = limit
        self.by_partition = by_partition
        self.skip_damaged = skip_damaged
        if limit is not None and limit < 0:
            raise Usage(f"a limit of {limit} records means nothing", hint="-c 0 is the least: no record")


def _numbers(partitions: "Iterable[int] | str") -> "list[int]":
    if isinstance(partitions, str):
        return parse_partitions(partitions)
    try:
        numbers = sorted(set(partitions))
    except TypeError:
        numbers = [None]  # type: ignore[list-item]
    if not all(isinstance(number, int) for number in numbers):
        raise Usage(f"{partitions!r} names no partitions", "they are a list of numbers, or '0,2-5'")
    return numbers


# -- words to values


def parse_offsets(texts: "Sequence[str]") -> "list[Bound]":
    """The bounds that the values of ``-o`` stand for: (from or to, kind, number).

    :raises pspf.errors.Usage: a text that is none of the forms, named in the message.
    """
    bounds: "list[Bound]" = []
    for text in texts:
        if text.startswith(("@", "s@")):
            bounds.append((FROM, "time", _time(text, text.partition("@")[2])))
        elif text.startswith("e@"):
            bounds.append((TO, "time", _time(text, text[2:])))
        elif ":" in text:
            left, _, right = text.partition(":")
            if not left and not right:
                raise _nonsense(text)
            first = _position(text, left) if left else None
            last = _position(text, right) if right else None
            if first is not None:
                bounds.append((FROM, *first))
            if last is not None:
                bounds.append((TO, *last))
            if first and last and first[0] == last[0] == "offset" and first[1] > last[1]:
                raise Usage(f"-o {text}: the range ends before it begins", hint=f"-o {last[1]}:{first[1]}")
        else:
            bounds.append((FROM, *_position(text, text)))
    return bounds


def _nonsense(text: str) -> Usage:
    return Usage(f"-o {text!r} is no offset" if text else "-o '' is no offset", hint=_OFFSET_HINT)


def _position(whole: str, text: str) -> "tuple[str, int]":
    word = _WORDS.get(text)
    if word is not None:
        return word, 0
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19 or int(digits) > _MAX_OFFSET:
        raise _nonsense(whole)
    return {"+": "skip", "-": "back"}.get(text[0], "offset"), int(digits)


def parse_partitions(text: str) -> "list[int]":
    """The partitions that ``0``, ``0,2`` or ``1-3`` (both ends included) stand for, sorted.

    :raises pspf.errors.Usage: anything else.
    """
    numbers: "set[int]" = set()
    for part in text.split(","):
        left, dash, right = part.strip().partition("-")
        ends = (left, right if dash else left)
        # int() refuses thousands of digits in words of its own, so their number is looked at first.
        if not all(
            end.isascii() and end.isdigit() and len(end) <= 18 and int(end) < MAX_PARTITIONS for end in ends
        ):
            raise Usage(
                f"-p {text!r} names no partitions", hint="-p takes 0, or 0,2, or 1-3; the first one is 0"
            )
        if int(ends[0]) > int(ends[1]):
            raise Usage(f"-p {text}: the range ends before it begins", hint=f"-p {ends[1]}-{ends[0]}")
        numbers.update(range(int(ends[0]), int(ends[1]) + 1))
    return sorted(numbers)


def _time(whole: str, text: str) -> int:
    try:
        return parse_time(text)
    except Usage:
        raise Usage(f"-o {whole!r}: {text!r} is no time", hint=_TIME_HINT) from None


def parse_time(text: str, now_ms: "int | None" = None) -> int:
    """Milliseconds since the epoch of a time in words.

    RFC 3339 (a date alone is its midnight; without a zone: the zone of this machine), digits alone (epoch
    ms), a length of time (``1h``, ``1h30m``: so long ago), ``today``, ``yesterday`` (their midnights here) or
    ``now``.

    :param now_ms: what ``now`` is; the clock by default.
    :raises pspf.errors.Usage: anything else.
    """
    word = text.strip()
    digits = word[1:] if word[:1] == "-" else word
    if digits.isascii() and digits.isdigit() and len(digits) <= 18:
        return int(word)
    if now_ms is None:
        from time import time_ns

        now_ms = time_ns() // 1_000_000
    lower = word.lower()
    if lower == "now":
        return now_ms
    if lower in ("today", "yesterday"):
        from datetime import datetime, timedelta

        midnight = datetime.fromtimestamp(now_ms / 1000).replace(hour=0, minute=0, second=0, microsecond=0)
        return int((midnight - timedelta(days=lower == "yesterday")).timestamp() * 1000)
    ago = _length_ms(lower)
    if ago is not None:
        if ago - now_ms > 1 << 63:
            raise Usage(f"{text!r} is no time", "it does not fit 64 bits of milliseconds", hint=_TIME_HINT)
        return now_ms - ago
    stamp = _rfc3339_ms(word)
    if stamp is None:
        raise Usage(f"{text!r} is no time", hint=_TIME_HINT)
    return stamp


def _length_ms(text: str) -> "int | None":
    """``1h30m`` in ms; None when it is no length of time."""
    total = at = 0
    while at < len(text):
        end = at
        while end < len(text) and "0" <= text[end] <= "9":
            end += 1
        unit_end = end
        while unit_end < len(text) and "a" <= text[unit_end] <= "z":
            unit_end += 1
        unit = _UNITS_MS.get(text[end:unit_end])
        if not 0 < end - at < 16 or unit is None:
            return None
        total += int(text[at:end]) * unit
        at = unit_end
    return total if text else None


def _rfc3339_ms(text: str) -> "int | None":
    # fromisoformat takes weeks, ordinal dates and more; only what RFC 3339 writes is let through to it.
    if not (10 <= len(text) <= 40 and text.isascii() and text[4] == text[7] == "-"):
        return None
    date, rest = text[:10], text[10:]
    if not (date[:4] + date[5:7] + date[8:]).isdigit() or (rest and (rest[0] not in "Tt " or len(rest) < 6)):
        return None
    from datetime import datetime, timedelta

    try:
        moment = datetime.fromisoformat(date + ("T" + rest[1:].replace("z", "Z") if rest else ""))
        # Through a difference of integers: a float of seconds is a millisecond off now and then.
        since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return since // timedelta(milliseconds=1)


# -- values to offsets


def resolve(
    selection: "Selection", reader: "PartitionReader", on_note: "Callable[[str], None] | None" = None
) -> "tuple[int, int | None, int | None]":
    """Where the selection begins and ends in one partition: ``(first, end, until_ms)``.

    ``end`` is None where the selection names none. ``until_ms`` is given when the end is a time that no
    record has reached yet: it ends before the first one that does. ``on_note`` is told of offsets that the
    partition no longer has, or does not have yet.
    """
    start, visible = reader.start(), reader.end()
    first, end, until = start, None, None
    bounds = list(selection.ranges)
    if selection.since_ms is not None:
        bounds.append((FROM, "time", selection.since_ms))
    if selection.until_ms is not None:
        bounds.append((TO, "time", selection.until_ms))
    for side, kind, number in bounds:
        if kind == "offset":
            offset = number
        elif kind == "start":
            offset = start
        elif kind == "skip":
            offset = start + number
        elif kind == "end":
            offset = visible
        elif kind == "back":
            offset = reader.seek_back(number)
        else:
            offset = reader.seek_time(number)
            if side == TO and offset >= visible:
                until = number if until is None else min(until, number)
                continue
        if side == FROM:
            first = max(first, offset)
        else:
            end = offset if end is None else min(end, offset)
        if on_note is not None and kind in ("offset", "skip"):
            _note(on_note, reader, side, number, offset, start, visible)
    return first, end, until


def _note(
    on_note: "Callable[[str], None]",
    reader: "PartitionReader",
    side: str,
    number: int,
    offset: int,
    start: int,
    visible: int,
) -> None:
    name = f"{reader.topic}/{reader.partition}"
    if offset < start:
        then = f"reading from {start}" if side == FROM else "nothing to read"
        on_note(f"{name}: offset {offset} is before the log start {start}: {then}")
    elif offset > visible and side == FROM:
        on_note(f"{name}: offset {offset} is beyond the end {visible}: nothing is there yet")


def last_records(
    reader: "PartitionReader",
    first: int,
    end: int,
    count: int,
    key: "bytes | None",
    skip_damaged: bool = False,
) -> "tuple[int, int]":
    """Where the last ``count`` selected records of ``[first, end)`` begin: ``(offset, how many there are)``.

    Fewer than ``count`` are found only when the range holds no more. Leaves the reader anywhere. A damaged
    range counts as empty: reading it names the damage.

    :param skip_damaged: count only what can be read, since it is to be made up for by what comes before.
    """
    if count <= 0 or first >= end:
        return max(first, end), 0
    if key is None and not skip_damaged and end == reader.end():
        begin = reader.seek_back(count)
        if begin > first:
            return begin, count
    reach = count
    while True:
        begin = max(first, end - reach)
        found = _offsets(reader, begin, end, key, count)
        if len(found) >= count:
            return found[-count], count
        if begin <= first:
            return first, len(found)
        reach *= 8


def _offsets(reader: "PartitionReader", begin: int, end: int, key: "bytes | None", keep: int) -> "list[int]":
    """The last ``keep`` offsets, and a few more, of the selected records in ``[begin, end)``."""
    from pspf.store.merge import Cursor

    cursor = Cursor(reader, begin, end, key=key, skip_damaged=True)
    found: "list[int]" = []
    while cursor.load():
        found += cursor.rest().offsets()
        if len(found) > 2 * keep + 10_000:
            del found[:-keep]
    return found


def highest_before(cursor: "Cursor", first: int, begin: int, end: int) -> int:
    """The greatest timestamp in ``[first, begin)``, where it matters for the records in ``[begin, end)``.

    A merge compares heads, so that a record with a late timestamp holds back all behind it. Who begins a
    merge in the middle has to know of one that came before. Leaves the reader anywhere.
    """
    from pspf.store.merge import BEFORE_ALL, Cursor

    reader = cursor.reader
    if begin <= first:
        return BEFORE_ALL
    scan = Cursor(reader, begin, end, key=cursor.key, skip_damaged=True)
    if not scan.load():
        return BEFORE_ALL
    above = scan.low
    found = reader.seek_time(above)
    if found >= begin:
        return BEFORE_ALL
    if found < first or cursor.key is not None:
        # Records before the range, or of other keys, hide what is asked for.
        scan = Cursor(reader, first, begin, key=cursor.key, skip_damaged=True)
        while scan.load():
            pass
        return scan.top
    step = 1
    while reader.seek_time(above + step) < begin:
        above += step
        step *= 2
    high = above + step
    while high - above > 1:
        middle = (above + high) // 2
        if reader.seek_time(middle) < begin:
            above = middle
        else:
            high = middle
    return above
