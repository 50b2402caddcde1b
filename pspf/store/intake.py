"""Input that is not taken as it is: keys, envelopes, whole files, times out of values, and inputs that can
be resumed.
"""

from bisect import bisect_left

import pspf
from pspf.format.batch import FLAG_CONTROL, KIND_GAP, Encoded
from pspf.format.crc import crc32
from pspf.format.encode import encode_records, headers_bytes
from pspf.log.others import end_now
from pspf.model import MAX_BATCH_RECORDS
from pspf.store.refuse import left_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.format.columns import Pairs
    from pspf.store.feed import Feed
    from pspf.store.resume import Resume
    from pspf.store.topics import Topic

_MAX_GAP = 0xFFFFFFFF
"""The offsets that one batch can span."""
_MAX_JUMP = 1024 * _MAX_GAP
"""The offsets that may be left out before a record: more would be a mistake, and only cost space."""


class Item:
    """One record on its way in. ``start``, ``text_end`` and ``end`` (behind its separator) are where it lies,
    in bytes from the input's start.
    """

    __slots__ = (
        "end",
        "headers",
        "key",
        "number",
        "offset",
        "partition",
        "start",
        "text_end",
        "timestamp_ms",
        "value",
    )

    def __init__(self, number: int, start: int, text_end: int, end: int) -> None:
        self.number = number
        self.start = start
        self.text_end = text_end
        self.end = end
        self.value: "bytes | None" = None
        self.key: "bytes | None" = None
        self.headers: "Pairs" = ()
        self.timestamp_ms: "int | None" = None
        self.partition: "int | None" = None
        self.offset: "int | None" = None

    def within(self, position: int) -> bool:
        """Whether all of it but its separator lies before ``position``."""
        return self.start < position and self.text_end <= position


class Invalid(ValueError):
    """A record that is not what it was said to be."""


class Intake:
    """Takes chunks of input apart and hands batches to its :class:`pspf.store.feed.Feed`.

    It counts lines per source (for messages), and bytes and their CRC over the whole input (for resuming).
    """

    __slots__ = ("_crc", "_feed", "_line", "_name", "_now", "_options", "_position", "_resume", "_topic")

    def __init__(self, feed: "Feed", topic: "Topic") -> None:
        self._feed = feed
        self._topic = topic
        self._options = feed.options
        self._name = ""
        self._line = 0
        self._position = 0
        self._crc = 0
        self._now = 0
        self._resume: "Resume | None" = None
        if feed.options.producer is not None:
            from pspf.store.resume import Resume

            self._resume = Resume(feed.store, topic, feed.options.producer, feed.options)

    # -- chunks

    def consume(self, data: bytes, last: bool, name: str) -> int:
        """Take the whole records of ``data``; the number of bytes used. ``last``: nothing comes behind it."""
        if name != self._name:
            self._name, self._line = name, 0
        options = self._options
        self._now = self._feed.store.disk.now_ns() // 1_000_000
        separator = b"\n" if options.json else options.separator
        if options.whole:
            pieces, tail = [data], 0
            if self._resume is not None:
                # Its end counts as a byte of the input: else the position would not tell of an empty file.
                data, tail = data + b"\0", 1
            end = len(data)
        else:
            tail = len(separator)
            # From the left: a separator such as '||' can be found at two places in '|||'.
            pieces = data.split(separator)
            end = len(data) - len(pieces.pop())
            if last and end < len(data):
                pieces.append(data[end:])
                end = len(data)
        if not pieces:
            return 0
        if len(pieces) > MAX_BATCH_RECORDS:  # most of them empty
            cut = sum(map(len, pieces[:MAX_BATCH_RECORDS])) + MAX_BATCH_RECORDS * tail
            return self.consume(data[:cut], False, name) + self.consume(data[cut:], last, name)
        start = self._position
        crc_before = self._crc
        if self._resume is not None:
            self._resume.check_prefix(data[:end], start, crc_before)
            self._crc = crc32(data[:end], crc_before)
        self._position = start + end
        items, fault = self._parse(pieces, start, tail, start + end)
        if self._resume is not None:
            items = self._resume.only_new(items, self._feed)
        stop_at = self._position
        if fault is not None and self._resume is not None:
            # What is recorded as done must end before the malformed record.
            stop_at = items[-1].end if items else start
            self._crc = crc32(data[: stop_at - start], crc_before)
        self._put(items, stop_at)
        if fault is not None:
            raise fault
        return end

    def drop(self, data: bytes, ended: bool, name: str) -> None:
        """Pass over input that belongs to a record which is left out; ``ended``: up to its end."""
        if name != self._name:
            self._name, self._line = name, 0
        if self._resume is not None:
            if ended and self._options.whole:
                data += b"\0"
            self._resume.check_prefix(data, self._position, self._crc)
            self._crc = crc32(data, self._crc)
        self._position += len(data)
        if ended:
            self._line += 1

    def next_record(self, name: str) -> str:
        """Where the record stands that comes next."""
        return self._place_of(name, 1 + (self._line if name == self._name else 0))

    def finish(self) -> None:
        """The input has ended."""
        if self._resume is not None and not self._feed.report.interrupted:
            self._resume.check_end(self._position)
            for items, position, crc in self._resume.release():
                self._put_held(items, position, crc)

    def close(self) -> None:
        """Give a producer's name back."""
        if self._resume is not None:
            self._resume.close()

    def _parse(
        self, pieces: "list[bytes]", start: int, tail: int, end: int
    ) -> "tuple[list[Item], pspf.errors.Error | None]":
        """Records out of pieces, up to the first malformed one, and the error for that."""
        options = self._options
        items: "list[Item]" = []
        parse = self._envelope if options.json else self._plain
        at = start
        limit = self._topic.config.max_record_bytes
        for piece in pieces:
            after = min(at + len(piece) + tail, end)
            self._line += 1
            item = Item(self._line, at, at + len(piece), after)
            at = after
            try:
                parse(item, piece)
                size = len(item.value or b"") + len(item.key or b"") + headers_bytes(item.headers)
                if size > limit:
                    raise pspf.errors.RecordTooLarge(
                        f"cannot append to '{self._topic.name}'",
                        f"a record of {size} bytes is above max_record_bytes ({limit})",
                        self._where(item),
                        f"pspf topic alter {self._topic.name} --max-record-bytes {size}",
                    )
            except (Invalid, ValueError, pspf.errors.RecordTooLarge) as error:
                if options.skip_invalid:
                    left_out(self._feed.report, self._where(item))
                    continue
                if isinstance(error, pspf.errors.RecordTooLarge):
                    return items, error
                return items, pspf.errors.Malformed(
                    f"malformed input for '{self._topic.name}'",
                    str(error),
                    self._where(item),
                    "leave such records out with: --skip-invalid",
                )
            items.append(item)
        return items, None

    def _where(self, item: Item) -> str:
        return self._place_of(self._name, item.number)

    def _place_of(self, name: str, number: int) -> str:
        if self._options.whole:
            return name
        unit = "line" if self._options.separator == b"\n" else "record"
        return f"{name}, {unit} {number}"

    # -- one record

    def _plain(self, item: Item, piece: bytes) -> None:
        options = self._options
        value: "bytes | None" = piece
        item.key = options.key
        if options.key_separator is not None:
            key, found, rest = piece.partition(options.key_separator)
            if found:
                item.key, value = key, rest
            elif not options.key_optional:
                raise Invalid(f"the key separator {options.key_separator!r} is missing".replace(" b'", " '"))
        if options.null_empty and not value:
            value = None
        item.value = value
        item.headers = options.headers
        if options.timestamp_ms is not None:
            item.timestamp_ms = options.timestamp_ms
        elif options.timestamp_field is not None:
            item.timestamp_ms = self._time_of(value)

    def _envelope(self, item: Item, piece: bytes) -> None:
        from pspf.format.envelope import decode

        fields = decode(piece)
        options = self._options
        item.value, item.key = fields.value, fields.key
        if item.key is None and options.key is not None:
            item.key = options.key
        item.headers = [*fields.headers, *options.headers] if options.headers else fields.headers
        if options.null_empty and not item.value:
            item.value = None
        if options.preserve:
            item.partition, item.offset, item.timestamp_ms = (
                fields.partition,
                fields.offset,
                fields.timestamp_ms,
            )
        if options.timestamp_ms is not None:
            item.timestamp_ms = options.timestamp_ms
        elif options.timestamp_field is not None:
            item.timestamp_ms = self._time_of(item.value)

    def _time_of(self, value: "bytes | None") -> int:
        """The time in a field of a JSON value: a number (ms), or an RFC 3339 string."""
        from orjson import JSONDecodeError, loads

        path = self._options.timestamp_field or ""
        try:
            found = loads(value or b"")
            for name in path.strip(".").split("."):
                found = found[int(name)] if isinstance(found, list) else found[name]
        except JSONDecodeError:
            raise Invalid("the value is not JSON, so it has no timestamp field") from None
        except (KeyError, IndexError, TypeError, ValueError):
            raise Invalid(f"the value has no field {path}") from None
        if isinstance(found, bool) or not isinstance(found, (int, float, str)):
            raise Invalid(f"the field {path} is neither a number nor a string")
        if isinstance(found, str):
            from pspf.store.select import parse_time

            try:
                found = parse_time(found)
            except pspf.errors.Usage:
                raise Invalid(f"the field {path} is not a time: {found!a}") from None
        if not -(1 << 63) <= found < 1 << 63:
            raise Invalid(f"the field {path} is out of range")
        return int(found)

    # -- batches

    def _put(self, items: "list[Item]", position: int) -> None:
        resume = self._resume
        if resume is None:
            self._put_now(items, position, self._crc)
            return
        # Nothing is appended before the whole recorded prefix has been compared.
        resume.hold(items, position, self._crc)
        if position >= resume.verified_from:
            for held, at, crc in resume.release():
                self._put_held(held, at, crc)

    def _put_held(self, items: "list[Item]", position: int, crc: int) -> None:
        assert self._resume is not None
        self._resume.settle(position, self._feed)
        self._put_now(items, position, crc)

    def _put_now(self, items: "list[Item]", position: int, crc: int) -> None:
        by_partition: "dict[int, list[Item]]" = {}
        ends: "dict[int, int]" = {}
        fault: "pspf.errors.Error | None" = None
        for item in items:
            try:
                partition = self._place(item)
                if self._options.preserve:
                    self._keep_offset(item, partition, ends)
            except pspf.errors.Error as error:
                if self._options.skip_invalid and isinstance(error, pspf.errors.Malformed):
                    left_out(self._feed.report, self._where(item))
                    continue
                fault = error  # what came before it is appended all the same
                break
            by_partition.setdefault(partition, []).append(item)
        for partition, chosen in sorted(by_partition.items()):
            check = None
            if self._resume is not None:
                check = self._resume.check(partition, position, crc)
            if self._options.preserve:
                self._put_preserved(partition, chosen)
            else:
                self._feed.put(partition, self._encode(chosen), check)
        if fault is not None:
            raise fault

    def _keep_offset(self, item: Item, partition: int, ends: "dict[int, int]") -> None:
        """Settle which offset a record keeps; it must lie behind everything in its partition."""
        end = ends.get(partition)
        if end is None:
            self._feed.settle()
            writer = self._feed.store.partition_writer(self._topic, partition, self._options.durability)
            end = end_now(writer)
        if item.offset is None:
            item.offset = end
        if item.offset < end:
            raise pspf.errors.Malformed(
                f"cannot keep offset {item.offset} in {self._topic.name}/{partition}",
                f"the log already reaches to {end - 1}",
                self._where(item),
                "append without --preserve, or leave such records out with: --skip-invalid",
            )
        if item.offset - end > _MAX_JUMP:
            raise pspf.errors.Malformed(
                f"cannot keep offset {item.offset} in {self._topic.name}/{partition}",
                f"the log ends at {end}, and at most {_MAX_JUMP} offsets may be left out",
                self._where(item),
                "append without --preserve, or leave such records out with: --skip-invalid",
            )
        ends[partition] = item.offset + 1

    def _place(self, item: Item) -> int:
        if self._options.partition is not None:
            return self._options.partition
        if item.partition is not None:
            if not 0 <= item.partition < self._topic.config.partitions:
                raise pspf.errors.Malformed(
                    f"no partition {item.partition} in topic '{self._topic.name}'",
                    f"it has {self._topic.config.partitions}, numbered from 0",
                    self._where(item),
                    f"pspf topic add-partitions {self._topic.name} -n N, or leave such records out with:"
                    " --skip-invalid",
                )
            return item.partition
        return self._feed.store.place(self._topic, item.key)

    def _encode(self, items: "list[Item]", deltas: "list[int] | None" = None) -> Encoded:
        values = [i.value for i in items]
        keys: "list[bytes | None] | None" = [i.key for i in items]
        assert keys is not None
        if keys.count(None) == len(keys):
            keys = None
        times = [self._now if i.timestamp_ms is None else i.timestamp_ms for i in items]
        if any(i.headers for i in items):
            shared = not self._options.json
            headers = items[0].headers if shared else [i.headers for i in items]
            return encode_records(values, keys, times, headers, self._feed.compress, shared, deltas)
        return encode_records(values, keys, times, None, self._feed.compress, True, deltas)

    def _put_preserved(self, partition: int, items: "list[Item]") -> None:
        """Records at the offsets they had. Where the log ends before the first, a gap is recorded."""
        feed = self._feed
        writer = feed.store.partition_writer(self._topic, partition, self._options.durability)
        offsets = [item.offset or 0 for item in items]
        end = end_now(writer)
        start = 0
        while start < len(items):
            base = offsets[start]
            while end < base:
                span = min(base - end, _MAX_GAP)
                gap = Encoded([b"offsets kept by --preserve"], 0, span, FLAG_CONTROL, KIND_GAP)
                feed.options.expect_offset = end
                feed.put(partition, gap)
                end += span
            stop = bisect_left(offsets, base + _MAX_GAP, start)
            feed.options.expect_offset = base
            feed.put(partition, self._encode(items[start:stop], [o - base for o in offsets[start:stop]]))
            start, end = stop, offsets[stop - 1] + 1
        feed.options.expect_offset = None
