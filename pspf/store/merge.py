"""The records of several partitions as one stream: always the head with the least (timestamp, partition).

Within a partition offset order holds whatever the timestamps, so a record with a late timestamp holds back
those behind it. That is the order of (greatest timestamp so far, partition, offset), and in this form it can
be done for whole batches: the batch whose greatest key is least of all goes out entirely, with what others
have up to that key. Where batches do not overlap that is one piece, untouched; where they do, one C-level
sort puts the pieces together. The output depends on the records alone, never on how they were cut into
batches.

:class:`Cursor` is one partition, :class:`Heads` are those that have something, :class:`Run` and
:class:`Mixed` are what comes out.
"""

from pspf import errors
from pspf.format.batch import FLAG_LINES, FLAG_TIMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from pspf.format.batch import Header
    from pspf.format.columns import Columns
    from pspf.log.reader import PartitionReader, RawBatch
    from pspf.model import Record

    HeaderPairs = Sequence[tuple[str, bytes | None]]

BEFORE_ALL = -(1 << 63) - 1
READ_BYTES = 1 << 20


class Part:
    """One batch, its columns taken apart when asked and kept. ``picked``: the records that a key selected."""

    __slots__ = ("_cache", "columns", "header", "partition", "picked", "raw")

    def __init__(self, raw: "RawBatch", columns: "Columns", partition: int) -> None:
        self.raw = raw
        self.columns = columns
        self.header: "Header" = raw.header
        self.partition = partition
        self.picked: "list[int] | None" = None
        self._cache: "dict[str, Any]" = {}

    @property
    def count(self) -> int:
        """How many records there are, of those that were picked."""
        return self.header.count if self.picked is None else len(self.picked)

    def column(self, name: str) -> "Any":
        """``values``, ``keys``, ``timestamps``, ``offsets`` or ``header_blobs`` of :class:`Columns`.

        :raises pspf.errors.Damaged: the batch CRC holds and the columns do not fit together all the same.
        """
        cache = self._cache
        if name not in cache:
            try:
                column = getattr(self.columns, name)()
            except ValueError as error:
                raise bad_columns(self.raw, self.partition, error) from None
            if self.picked is not None and column is not None:
                column = [column[i] for i in self.picked]
            cache[name] = column
        return cache[name]


def bad_columns(raw: "RawBatch", partition: int, error: ValueError) -> errors.Damaged:
    """The error for a batch that was written wrong: its check holds, its contents make no sense."""
    header = raw.header
    return errors.Damaged(
        f"cannot read offset {header.base_offset} of partition {partition}",
        str(error),
        f"{raw.path} at byte {raw.position}",
        "pspf verify; read on with --skip-damaged",
        path=raw.path,
        position=raw.position,
        offset=header.base_offset,
        resume_offset=header.next_offset,
    )


class Run:
    """Consecutive selected records of one batch. All columns are lists of ``count``, in output order."""

    __slots__ = ("hi", "lo", "part")

    def __init__(self, part: Part, lo: int, hi: int) -> None:
        self.part = part
        self.lo = lo
        self.hi = hi

    @property
    def count(self) -> int:
        """How many records."""
        return self.hi - self.lo

    def cut(self, lo: int, hi: int) -> "Run":
        """Records ``lo`` to ``hi`` of this piece."""
        return Run(self.part, self.lo + lo, self.lo + hi)

    def region(self) -> "memoryview | None":
        """The values, each with its newline, as they lie in the batch; None where they do not."""
        part = self.part
        if part.header.flags & FLAG_LINES and part.picked is None and self.hi - self.lo == part.header.count:
            return part.columns.region()
        return None

    def values(self) -> "list[bytes | None]":
        """Values; None is a null."""
        column: "list[bytes | None]" = self.part.column("values")
        return column[self.lo : self.hi]

    def keys(self) -> "list[bytes | None]":
        """Keys; None is a null."""
        column = self.part.column("keys")
        return column[self.lo : self.hi] if column is not None else [None] * (self.hi - self.lo)

    def timestamps(self) -> "list[int]":
        """Times of the records, ms."""
        column = self.part.column("timestamps")
        if column is None:
            return [self.part.header.base_timestamp] * (self.hi - self.lo)
        return column[self.lo : self.hi]  # type: ignore[no-any-return]

    def offsets(self) -> "list[int]":
        """Offsets."""
        return list(self.part.column("offsets")[self.lo : self.hi])

    def partitions(self) -> "list[int]":
        """Partition of each."""
        return [self.part.partition] * (self.hi - self.lo)

    def append_times(self) -> "list[int]":
        """When they were appended, ns."""
        return [self.part.header.append_ns] * (self.hi - self.lo)

    def headers(self) -> "list[HeaderPairs]":
        """Headers: pairs of name and value."""
        column = self.part.column("header_blobs")
        if column is None:
            return [()] * (self.hi - self.lo)
        from pspf.format.columns import unpack_headers

        try:
            blobs = column[self.lo : self.hi]
            if blobs and blobs.count(blobs[0]) == len(blobs):
                return [unpack_headers(blobs[0])] * len(blobs)
            return [unpack_headers(blob) for blob in blobs]
        except ValueError as error:
            raise bad_columns(self.part.raw, self.part.partition, error) from None


class Mixed:
    """Records of several runs: ``order`` has the place of each in the runs, laid end to end."""

    __slots__ = ("order", "runs")

    def __init__(self, runs: "list[Run]", order: "list[int]") -> None:
        self.runs = runs
        self.order = order

    @property
    def count(self) -> int:
        """How many records."""
        return len(self.order)

    def cut(self, lo: int, hi: int) -> "Mixed":
        """Records ``lo`` to ``hi`` of this piece."""
        return Mixed(self.runs, self.order[lo:hi])

    def region(self) -> "memoryview | None":
        """Always None: the values have to be put together."""
        return None

    def _ordered(self, name: str) -> "list[Any]":
        laid: "list[Any]" = []
        for run in self.runs:
            laid += getattr(run, name)()
        return list(map(laid.__getitem__, self.order))

    def values(self) -> "list[bytes | None]":
        """As :meth:`Run.values`."""
        return self._ordered("values")

    def keys(self) -> "list[bytes | None]":
        """As :meth:`Run.keys`."""
        return self._ordered("keys")

    def timestamps(self) -> "list[int]":
        """As :meth:`Run.timestamps`."""
        return self._ordered("timestamps")

    def offsets(self) -> "list[int]":
        """As :meth:`Run.offsets`."""
        return self._ordered("offsets")

    def partitions(self) -> "list[int]":
        """As :meth:`Run.partitions`."""
        return self._ordered("partitions")

    def append_times(self) -> "list[int]":
        """As :meth:`Run.append_times`."""
        return self._ordered("append_times")

    def headers(self) -> "list[HeaderPairs]":
        """As :meth:`Run.headers`."""
        return self._ordered("headers")


def records(topic: str, chunk: "Run | Mixed") -> "Iterator[Record]":
    """The records of a piece, as objects."""
    from itertools import repeat

    from pspf.model import Record

    return map(
        Record,
        repeat(topic),
        chunk.partitions(),
        chunk.offsets(),
        chunk.timestamps(),
        chunk.keys(),
        chunk.values(),
        chunk.headers(),
        chunk.append_times(),
    )


class Cursor:
    """The selected records of one partition, a batch at a time.

    After :meth:`load`: ``part`` is the batch, ``at`` to ``hi`` its records that are still to come, ``top``
    the greatest timestamp up to its last one, and ``low`` at most that of the next one.

    :param first: offset to begin at; the reader is sought there.
    :param end: offset to end before; None: at the reader's end.
    :param until_ms: end before the first record that reaches this time.
    :param damage: takes what is found broken; None: it is left out in silence.

    ``end`` may be moved up to ``final``, the end that was asked for, once what was visible is out.
    ``follow``: records that a crash took back are a note, not an error.
    """

    __slots__ = (
        "_batches",
        "_level",
        "_next",
        "_times",
        "at",
        "damage",
        "end",
        "final",
        "first",
        "follow",
        "hi",
        "key",
        "lo",
        "low",
        "on_note",
        "part",
        "partition",
        "read_bytes",
        "reader",
        "skip_damaged",
        "skipped",
        "stopped",
        "top",
        "until_ms",
    )

    def __init__(
        self,
        reader: "PartitionReader",
        first: int = 0,
        end: "int | None" = None,
        until_ms: "int | None" = None,
        key: "bytes | None" = None,
        skip_damaged: bool = False,
        damage: "list[errors.Damaged] | None" = None,
        on_note: "Callable[[str], None] | None" = None,
    ) -> None:
        self.reader = reader
        self.partition = reader.partition
        self.first = first
        self.end = end
        self.until_ms = until_ms
        self.key = key
        self.skip_damaged = skip_damaged
        self.damage = damage
        self.on_note = on_note
        self.read_bytes = READ_BYTES
        self.stopped = False
        self.follow = False
        self.part: "Part | None" = None
        self.at = self.lo = self.hi = 0
        self.top = self.low = self._level = BEFORE_ALL
        self.final = end
        self._batches: "Sequence[RawBatch]" = ()
        self._next = 0
        self._times: "list[int] | None" = None
        if first != reader.next_offset:
            reader.seek(first)
        self.skipped = reader.skipped

    @property
    def finished(self) -> bool:
        """True when nothing more can come, whatever is appended."""
        if self.stopped:
            return True
        if self.end is None:
            return False
        if self._next < len(self._batches):
            return self._batches[self._next].header.base_offset >= self.end
        return self.reader.next_offset >= self.end

    @property
    def buffered(self) -> bool:
        """True when the next batch has been read already."""
        return self._next < len(self._batches)

    def move(self, first: int, level: int) -> None:
        """Begin anew at offset ``first``, ``level`` being the greatest timestamp before it."""
        self.reader.seek(first)
        self.skipped = self.reader.skipped
        self.first = first
        self.stopped = False
        self.part = None
        self.top = level
        self._batches, self._next = (), 0

    def load(self) -> bool:
        """Go to the next batch with selected records; False when there is none for now.

        :raises pspf.errors.TopicDeleted: the topic is gone.
        """
        self.part = None
        while not self.stopped:
            if self._next >= len(self._batches) and not self._read():
                return False
            raw = self._batches[self._next]
            header = raw.header
            end = self.end
            if end is not None and header.base_offset >= end:
                return False  # kept: the end may be lifted
            self._next += 1
            try:
                if self._take(raw, header, end):
                    return True
            except errors.Damaged as error:
                self._damaged(error, seek=False)
        return False

    def _read(self) -> bool:
        end = self.end
        reader = self.reader
        self._batches, self._next = (), 0
        while end is None or reader.next_offset < end:
            try:
                self._batches = reader.read(self.read_bytes)
            except errors.Damaged as error:
                if end is not None and error.offset >= end:
                    return False
                self._damaged(error, seek=True)
                if self.stopped:
                    return False
                continue
            except errors.RecordsTakenBack as error:
                if not self.follow:
                    raise
                if self.on_note is not None:
                    self.on_note(f"{error}; going on at offset {error.offset}")
                self.first = min(self.first, error.offset)
                continue
            if reader.skipped != self.skipped:
                gone, self.skipped = reader.skipped - self.skipped, reader.skipped
                if self.on_note is not None:
                    self.on_note(
                        f"{reader.topic}/{reader.partition}: {gone} records were removed before they "
                        "were read; going on at the log start"
                    )
            return bool(self._batches)
        return False

    def _damaged(self, error: errors.Damaged, seek: bool) -> None:
        if self.damage is not None:
            if self.skip_damaged:  # what its hint would propose is being done
                error.hint = f"pspf verify {self.reader.topic}"
            self.damage.append(error)
        if self.skip_damaged and error.resume_offset >= max(error.offset, 0):
            # An empty range lies between two segments, and the reader is behind it already.
            if seek and error.resume_offset > error.offset:
                self.reader.seek(error.resume_offset)
                self.skipped = self.reader.skipped
        else:
            self.stopped = True
            self._batches, self._next = (), 0

    def _take(self, raw: "RawBatch", header: "Header", end: "int | None") -> bool:
        """Make ``raw`` the current batch; False when no record of it is selected."""
        try:
            columns = raw.columns()
        except ValueError as error:
            raise bad_columns(raw, self.partition, error) from None
        part = Part(raw, columns, self.partition)
        lo, hi = 0, header.count
        if header.base_offset < self.first:
            lo = _place(part.column("offsets"), self.first)
        if end is not None and header.base_offset + header.span > end:
            hi = _place(part.column("offsets"), end)
        until = self.until_ms
        if until is not None and lo < hi and header.max_timestamp >= until:
            times = part.column("timestamps")
            late = lo if times is None else next((i for i in range(lo, hi) if times[i] >= until), hi)
            if late < hi:
                hi = late
                self.end = self.final = part.column("offsets")[late]
        if self.key is not None and lo < hi:
            keys = part.column("keys") or ()
            key = self.key
            picked = [i for i in range(lo, hi if keys else lo) if keys[i] == key]
            part = Part(raw, columns, self.partition)
            part.picked = picked
            lo, hi = 0, len(picked)
        if lo >= hi:
            return False
        self.part = part
        self.lo = self.at = lo
        self.hi = hi
        self._order(part, header, lo, hi)
        return True

    def _order(self, part: Part, header: "Header", lo: int, hi: int) -> None:
        level = self._level = self.top
        self._times = None
        top = header.base_timestamp
        if header.flags & FLAG_TIMES:
            whole = hi - lo == header.count
            top = header.max_timestamp if whole else max(part.column("timestamps")[lo:hi])
        self.top = max(level, top)
        # Below the first record's own time where times differ: looking closer costs the column.
        self.low = max(level, header.base_timestamp)

    def order_times(self) -> "list[int] | None":
        """For each record from ``lo`` to ``hi`` the greatest timestamp up to it; None: ``top`` for all."""
        if self.low == self.top:
            return None
        if self._times is None:
            from itertools import accumulate

            assert self.part is not None
            times = self.part.column("timestamps")[self.lo : self.hi]
            self._times = list(accumulate(times, max, initial=self._level))[1:]
        return self._times

    def rest(self) -> Run:
        """What is left of the current batch."""
        assert self.part is not None
        return Run(self.part, self.at, self.hi)


def _place(offsets: "Sequence[int]", offset: int) -> int:
    """How many of the ascending ``offsets`` are below ``offset``."""
    if isinstance(offsets, range):
        return min(max(offset - offsets.start, 0), len(offsets))
    from bisect import bisect_left

    return bisect_left(offsets, offset)


class Heads:
    """Cursors that have a batch, in the order in which their records go out; one that runs dry leaves."""

    __slots__ = ("_by_low", "_by_top")

    def __init__(self) -> None:
        self._by_top: "list[tuple[int, int, Cursor]]" = []
        self._by_low: "list[tuple[int, int, Cursor]]" = []

    def __len__(self) -> int:
        return len(self._by_top)

    def add(self, cursor: Cursor) -> None:
        """Take in a cursor that has just loaded a batch."""
        from heapq import heappush

        heappush(self._by_top, (cursor.top, cursor.partition, cursor))
        heappush(self._by_low, (cursor.low, cursor.partition, cursor))

    def step(self) -> "tuple[Run | Mixed, Cursor] | None":
        """The next piece, and the cursor whose batch is used up by it; None when there is no cursor.

        That batch is the one that ends first. No other can be used up: keys are (time, partition), so two
        never end at the same one.
        """
        from heapq import heappop, heappush

        if not self._by_top:
            return None
        top, number, lead = heappop(self._by_top)
        by_low = self._by_low
        reached = []
        while by_low and by_low[0][:2] <= (top, number):
            reached.append(heappop(by_low)[2])
        runs: "list[tuple[int, Run, list[int] | None, int]]" = []
        for cursor in reached:
            part, times, at = cursor.part, cursor.order_times(), cursor.at
            assert part is not None
            if cursor is lead:
                to = cursor.hi
            else:
                assert times is not None  # all at one time: then it would end before the lead
                from bisect import bisect_left, bisect_right

                find = bisect_right if cursor.partition < number else bisect_left
                to = cursor.lo + find(times, top, at - cursor.lo)
                cursor.at = to
                cursor.low = times[to - cursor.lo]
                heappush(by_low, (cursor.low, cursor.partition, cursor))
            if to > at:
                keys = times[at - cursor.lo : to - cursor.lo] if times is not None else None
                runs.append((cursor.partition, Run(part, at, to), keys, cursor.top))
        if len(runs) == 1:
            return runs[0][1], lead
        runs.sort(key=_number)
        laid: "list[int]" = []
        for _, run, keys, at_once in runs:
            laid += [at_once] * run.count if keys is None else keys
        # Stable: at equal times the order in which they were laid holds, by partition and then by offset.
        return Mixed([run for _, run, _, _ in runs], sorted(range(len(laid)), key=laid.__getitem__)), lead


def _number(item: "tuple[int, Run, list[int] | None, int]") -> int:
    return item[0]
