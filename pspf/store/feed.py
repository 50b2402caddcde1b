"""A byte stream into a topic: what ``pspf append`` does with its input.

While input flows, chunks of it become batches of about a megabyte, written without a sync of their own; when
it pauses, or four megabytes
are unsynced, or it ends, everything is made durable. A failure at line N leaves what came before it appended
and durable, and
says so; nothing after it is.
"""

import os
from _thread import allocate_lock, start_new_thread

import pspf
from pspf.format.encode import encode_lines
from pspf.log.writer import UNSYNCED_LIMIT
from pspf.model import MAX_BATCH_RECORDS, Appended
from pspf.store.topics import check_durability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pspf.errors
    from pspf.format.batch import Encoded
    from pspf.log.end import Placed
    from pspf.log.producers import ProducerCheck
    from pspf.log.writer import PartitionWriter
    from pspf.store.intake import Intake
    from pspf.store.store import Store
    from pspf.store.topics import Topic

CHUNK_BYTES = 960 << 10
"""With its columns a batch of lines then fits the megabyte that readers take at a time."""
_STOP_POLL_MS = 200
_SYNC_BEHIND = UNSYNCED_LIMIT // 2


class FeedOptions:
    """How input becomes records.

    :param separator: ends a record; one byte or more.
    :param key_separator: divides key and value at its first occurrence.
    :param key_optional: a record without it gets no key, instead of being an error.
    :param key: one key for all. :param partition: one partition for all.
    :param headers: the same for all.
    :param null_empty: an empty value is a null.
    :param whole: each source is one record.
    :param json: each line is an envelope. :param preserve: with its partition, offset and timestamp.
    :param timestamp_ms: one time for all; else the time of reading.
    :param timestamp_field: take the time from this field of a JSON value (``.path.to.it``).
    :param durability: instead of the topic's.
    :param producer: name under which the input's position is kept, so that a repeat appends only what is new.
    :param new_source: the producer begins another input.
    :param expect_offset: the first record must get this offset.
    :param skip_invalid: leave out what is malformed, and count it.
    :param create: make the topic if it is not there.
    """

    __slots__ = (
        "create",
        "durability",
        "expect_offset",
        "headers",
        "json",
        "key",
        "key_optional",
        "key_separator",
        "new_source",
        "null_empty",
        "partition",
        "preserve",
        "producer",
        "separator",
        "skip_invalid",
        "timestamp_field",
        "timestamp_ms",
        "whole",
    )

    def __init__(
        self,
        *,
        separator: bytes = b"\n",
        key_separator: "bytes | None" = None,
        key: "bytes | None" = None,
        key_optional: bool = False,
        partition: "int | None" = None,
        headers: "Sequence[tuple[str, bytes | None]]" = (),
        null_empty: bool = False,
        whole: bool = False,
        json: bool = False,
        preserve: bool = False,
        timestamp_ms: "int | None" = None,
        timestamp_field: "str | None" = None,
        durability: "str | None" = None,
        producer: "str | None" = None,
        new_source: bool = False,
        expect_offset: "int | None" = None,
        skip_invalid: bool = False,
        create: bool = True,
    ) -> None:
        self.separator = separator
        self.key_separator = key_separator
        self.key = key
        self.key_optional = key_optional
        self.partition = partition
        self.headers = headers
        self.null_empty = null_empty
        self.whole = whole
        self.json = json
        self.preserve = preserve
        self.timestamp_ms = timestamp_ms
        self.timestamp_field = timestamp_field
        self.durability = durability
        self.producer = producer
        self.new_source = new_source
        self.expect_offset = expect_offset
        self.skip_invalid = skip_invalid
        self.create = create

    def plain_lines(self) -> bool:
        """Whether chunks of input can go in as they are."""
        return self.separator == b"\n" and not (
            self.key_separator
            or self.key is not None
            or self.headers
            or self.null_empty
            or self.whole
            or self.json
            or self.timestamp_field
        )


class FeedReport:
    """What became of the input. ``partial``: bytes of a line that a signal cut short, not appended.
    ``first_invalid``: where the first of the ``invalid`` ones stands.
    """

    __slots__ = (
        "bytes",
        "duplicates",
        "first_invalid",
        "interrupted",
        "invalid",
        "partial",
        "records",
        "skipped",
    )

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0
        self.skipped = 0
        self.duplicates = 0
        self.invalid = 0
        self.first_invalid = ""
        self.partial = 0
        self.interrupted = False


class SyncBehind:
    """Acknowledges batches beside the encoding and writing of the next ones.

    At most one sync is under way, of what was written before it began, so that no more than
    ``UNSYNCED_LIMIT`` is unsynced.

    :param on_batch: told about each batch once it is acknowledged, by the thread that calls.
    """

    __slots__ = (
        "_failure",
        "_last",
        "_on_batch",
        "_ready",
        "_running",
        "_telling",
        "_under_way",
        "_unsynced",
    )

    def __init__(self, on_batch: "Callable[[Appended], None] | None" = None) -> None:
        self._on_batch = on_batch
        self._last: "dict[PartitionWriter, Placed]" = {}
        self._ready: "list[Appended]" = []
        self._unsynced = 0
        self._running = allocate_lock()
        self._under_way: "dict[PartitionWriter, Placed]" = {}
        self._telling: "list[Appended]" = []
        self._failure: "BaseException | None" = None

    def add(
        self, writer: "PartitionWriter", placed: "Placed", size: int, told: "Appended | None" = None
    ) -> None:
        """A batch of ``size`` bytes was written; ``told`` is passed on when it is acknowledged."""
        self._last[writer] = placed
        if told is not None:
            self._ready.append(told)
        self._unsynced += size
        if self._unsynced >= _SYNC_BEHIND:
            self._join()
            self._under_way, self._last = self._last, {}
            self._telling, self._ready = self._ready, []
            self._unsynced = 0
            self._running.acquire()
            start_new_thread(self._acknowledge, ())

    def _acknowledge(self) -> None:
        try:
            for writer, placed in self._under_way.items():
                writer.acknowledge(placed)
        except BaseException as error:
            self._failure = error
        finally:
            self._running.release()

    def _join(self) -> None:
        """Wait for the sync that is under way, and tell what it acknowledged."""
        with self._running:
            pass
        telling, self._telling = self._telling, []
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        self._tell(telling)

    def _tell(self, telling: "list[Appended]") -> None:
        if self._on_batch is not None:
            for appended in telling:
                self._on_batch(appended)

    def settle(self) -> None:
        """Return when everything that was added is acknowledged.

        :raises pspf.errors.Error: some of it could not be.
        """
        self._join()
        written, self._last = self._last, {}
        telling, self._ready = self._ready, []
        self._unsynced = 0
        for writer, placed in written.items():
            writer.acknowledge(placed)
        self._tell(telling)


class Feed:
    """One run: sources in, batches out. ``stop`` is asked between reads; true ends the input there."""

    __slots__ = (
        "_behind",
        "compress",
        "dropped",
        "intake",
        "line",
        "name",
        "on_batch",
        "options",
        "report",
        "stop",
        "store",
        "topic",
    )

    def __init__(
        self,
        store: "Store",
        topic: "Topic",
        options: FeedOptions,
        on_batch: "Callable[[Appended], None] | None",
        stop: "Callable[[], bool] | None",
    ) -> None:
        self.store = store
        self.topic = topic
        self.options = options
        self.on_batch = on_batch
        self.stop = stop
        self.report = FeedReport()
        self.compress = topic.config.compression == "zstd"
        self.name = ""
        self.line = self.dropped = 0
        self._behind = SyncBehind(on_batch)
        self.intake: "Intake | None" = None

    # -- batches

    def put(self, partition: int, encoded: "Encoded", check: "ProducerCheck | None" = None) -> None:
        """Write one batch; it is acknowledged by the next :meth:`settle`."""
        writer = self.store.partition_writer(self.topic, partition, self.options.durability)
        expect = self.options.expect_offset
        placed = writer.write(encoded, expect, check)
        if expect is not None:
            self.options.expect_offset = placed.last + 1
        if placed.duplicate:
            self.report.duplicates += encoded.count
        else:
            self.report.records += encoded.count
        told = None
        if encoded.count and self.on_batch is not None:
            told = Appended(
                self.topic.name, partition, placed.first, placed.last, writer.durability, placed.duplicate
            )
        self._behind.add(writer, placed, encoded.body_length, told)

    def settle(self) -> None:
        """Make everything that was written as durable as asked, and tell about it."""
        self._behind.settle()

    # -- sources

    def run(self, sources: "list[str]") -> None:
        """Append all sources, in order, as one input."""
        options = self.options
        if options.plain_lines() and options.producer is None:
            consume = self._lines
        else:
            from pspf.store.intake import Intake

            self.intake = Intake(self, self.topic)
            consume = self.intake.consume
        try:
            for source in sources:
                if self.report.interrupted:
                    break
                self._source(source, consume)
            if self.intake is not None:
                self.intake.finish()
        except (pspf.errors.Malformed, pspf.errors.OffsetConflict) as error:
            self.settle()
            if self.report.records or isinstance(error, pspf.errors.Malformed):
                from pspf.store.refuse import counted

                error.why += f"; {counted(self.report.records)} appended"
            raise
        except BaseException:
            self._settle_what_we_can()
            raise
        finally:
            if self.intake is not None:
                self.intake.close()
        self.settle()

    def _settle_what_we_can(self) -> None:
        try:
            self.settle()
        except pspf.errors.Error:
            pass  # the first error is the one to tell

    def _source(self, source: str, consume: "Callable[[bytes, bool, str], int]") -> None:
        if source == "-":
            self._read(0, "standard input", consume)
            return
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(error, source) from None
        try:
            self._read(fd, source, consume)
        finally:
            os.close(fd)

    def _read(self, fd: int, name: str, consume: "Callable[[bytes, bool, str], int]") -> None:
        """Hand chunks to ``consume(data, last, name)``, which says how much of the data it used."""
        from select import POLLIN, poll

        ready: "poll | None" = poll()
        try:
            ready.register(fd, POLLIN)  # type: ignore[union-attr]
        except OSError:
            ready = None  # a kind of file that cannot be waited for
        chunk = 1 << 62 if self.options.whole else CHUNK_BYTES
        limit = self.topic.config.max_record_bytes + CHUNK_BYTES
        data = b""
        grown = False
        while True:
            if self.stop is not None and self.stop():
                self.report.interrupted = True
                break
            if ready is not None and not ready.poll(0):
                # The input pauses: what is there is made durable now, before anybody waits.
                if data and not self.options.whole:
                    data = data[consume(data, False, name) :]
                self.settle()
                ready.poll(None if self.stop is None else _STOP_POLL_MS)
                continue
            try:
                more = os.read(fd, CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _unreadable(error, name) from None
            if not more:
                break
            if not grown and ready is not None and len(more) >= 65536:
                grown = True
                from pspf.disk.real import grow_pipe

                grow_pipe(fd)
            data = data + more if data else more
            self.report.bytes += len(more)
            if self.dropped:
                data = self._drop(data, False, name)
            if len(data) >= chunk:
                data = data[consume(data, False, name) :]
            if len(data) > limit:
                data = self._drop(data, False, name)
        if not self.report.interrupted:
            if self.dropped:
                self._drop(data, True, name)
            elif data or self.options.whole:
                consume(data, True, name)
            return
        used = consume(data, False, name) if data and not self.options.whole else 0
        self.report.partial += self.dropped + len(data) - used
        self.dropped = 0

    def _drop(self, data: bytes, last: bool, name: str) -> bytes:
        from pspf.store.refuse import drop

        return drop(self, data, last, name)

    # -- the common case: lines as they are

    def _lines(self, data: bytes, last: bool, name: str) -> int:
        """Whole lines of ``data`` as one batch of one partition; the number of bytes used."""
        end = data.rfind(b"\n") + 1
        if last and end < len(data):
            data += b"\n"  # a last line without its newline is a record
            end = len(data)
        if not end:
            return 0
        region = data if end == len(data) else data[:end]
        lines = region.split(b"\n")
        lines.pop()
        if name != self.name:
            self.name, self.line = name, 0
        if (
            end > self.topic.config.max_record_bytes
            and max(map(len, lines)) > self.topic.config.max_record_bytes
        ):
            from pspf.store.refuse import around_large

            around_large(self, region, lines)
        else:
            self.put_lines(region, lines)
        self.line += len(lines)
        return end

    def put_lines(self, region: bytes, lines: "list[bytes]") -> None:
        if len(lines) > MAX_BATCH_RECORDS:  # most of them empty
            cut = sum(map(len, lines[:MAX_BATCH_RECORDS])) + MAX_BATCH_RECORDS
            self.put_lines(region[:cut], lines[:MAX_BATCH_RECORDS])
            self.put_lines(region[cut:], lines[MAX_BATCH_RECORDS:])
            return
        timestamp = self.options.timestamp_ms
        if timestamp is None:
            timestamp = self.store.disk.now_ns() // 1_000_000
        partition = self.options.partition
        if partition is None:
            partition = self.store.place(self.topic, None)
        self.put(partition, encode_lines(region, lines, timestamp, self.compress))


def _unreadable(error: OSError, name: str) -> "pspf.errors.Error":
    if isinstance(error, FileNotFoundError):
        missing = pspf.errors.Error(f"cannot read {name}", "no such file")
        missing.exit_code = 66
        return missing
    if isinstance(error, IsADirectoryError):
        return pspf.errors.Usage(f"cannot read {name}", "it is a directory")
    return pspf.errors.from_os(error, f"cannot read {name}")


def feed(
    store: "Store",
    topic_name: str,
    sources: "list[str]",
    options: "FeedOptions | None" = None,
    on_batch: "Callable[[Appended], None] | None" = None,
    on_created: "Callable[[str], None] | None" = None,
    stop: "Callable[[], bool] | None" = None,
) -> FeedReport:
    """Append everything that ``sources`` hold; when it returns, all of it is as durable as the topic says.

    :param sources: file names in order, ``-`` for standard input; none means standard input.
    :param on_batch: called for each batch once it is acknowledged.
    :param on_created: called with the topic's name if it was made now.
    :param stop: polled; true ends the input (complete lines are appended).
    :raises pspf.errors.Malformed: at some line; everything before it is appended and durable.
    :raises pspf.errors.Usage: options that mean nothing.
    """
    options = options or FeedOptions()
    check_durability(topic_name, options.durability)
    if options.timestamp_field is not None:
        from pspf.store.refuse import check_field

        check_field(topic_name, options.timestamp_field)
    topic, made = store.ensure_topic(topic_name, options.create)
    if made and on_created is not None:
        on_created(topic_name)
    if options.expect_offset is not None and options.partition is None:
        from pspf.store.refuse import check_expectation

        check_expectation(topic)
    if options.partition is not None and not 0 <= options.partition < topic.config.partitions:
        raise store.no_such_partition(topic, options.partition)
    run = Feed(store, topic, options, on_batch, stop)
    run.run(sources or ["-"])
    return run.report
