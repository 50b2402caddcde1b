"""Records of a topic to a descriptor: what ``pspf cat`` and ``pspf tail`` do.

A batch of lines leaves as it lies in the log, in one write; everything else goes through
:mod:`pspf.store.formats`. The usual case, all of one partition as lines, is done right here, without the
modules that select, merge and format: starting is part of the price of each ``cat``.
"""

from os import isatty, write, writev

import pspf
from pspf.format.batch import FLAG_LINES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import pspf.errors
    from pspf.log.reader import PartitionReader
    from pspf.store.select import Selection
    from pspf.store.store import Store

WRITE_BYTES = 1 << 20
_MOST_PARTS = 1000
"""Below the 1024 buffers that one writev takes."""
_JOIN_BYTES = 1 << 16


class OutputFormat:
    """How a record is written.

    :param separator: behind each record.
    :param key_separator: key and this before each value; None: no keys.
    :param null: what a null value or key is written as; None: nothing at all.
    :param format: a format with kcat's letters, instead of all of the above; it adds no newline.
    :param json: one envelope a line (:mod:`pspf.format.envelope`) instead.
    :param raw: write control bytes to a terminal as they are; anything else gets them anyway.
    """

    __slots__ = ("format", "json", "key_separator", "null", "raw", "separator")

    def __init__(
        self,
        separator: bytes = b"\n",
        key_separator: "bytes | None" = None,
        null: "bytes | None" = None,
        format: "str | None" = None,
        json: bool = False,
        raw: bool = True,
    ) -> None:
        self.separator = separator
        self.key_separator = key_separator
        self.null = null
        self.format = format
        self.json = json
        self.raw = raw


class EmitReport:
    """What was written: ``records``, and the ``damage`` that was met on the way."""

    __slots__ = ("damage", "records")

    def __init__(self) -> None:
        self.records = 0
        self.damage: "list[pspf.errors.Damaged]" = []


class Output:
    """Gathers pieces and writes them, about 1 MiB a call.

    :raises BrokenPipeError: nobody reads any more.
    :raises pspf.errors.IOFailed: the operating system refused the bytes.
    """

    __slots__ = ("_grown", "_parts", "_pending", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._grown = False
        self._parts: "list[bytes | memoryview]" = []
        self._pending = 0

    def add(self, data: "bytes | memoryview") -> None:
        """Take ``data``, and write when enough has come together."""
        self._parts.append(data)
        self._pending += len(data)
        if self._pending >= WRITE_BYTES or len(self._parts) >= _MOST_PARTS:
            self.flush()

    def flush(self) -> None:
        """Write everything that was added."""
        parts, pending = self._parts, self._pending
        self._parts, self._pending = [], 0
        if not pending:
            return
        if pending > _JOIN_BYTES and not self._grown:
            self._grown = True
            from pspf.disk.real import grow_pipe

            grow_pipe(self.fd)
        if len(parts) > 1 and pending <= _JOIN_BYTES:
            parts = [b"".join(parts)]
        try:
            done = 0
            while True:
                try:
                    done = write(self.fd, parts[0]) if len(parts) == 1 else writev(self.fd, parts)
                except BlockingIOError:
                    self._wait_writable()
                    continue
                pending -= done
                if not pending:
                    return
                while done >= len(parts[0]):
                    done -= len(parts.pop(0))
                if done:
                    parts[0] = memoryview(parts[0])[done:]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise pspf.errors.from_os(error, "cannot write the output") from error

    def _wait_writable(self) -> None:
        """Somebody made the descriptor non-blocking, usually a parent for its own sake: it is shared."""
        import select

        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        poll.poll()


def emit(
    store: "Store",
    topic: str,
    selection: "Selection | None" = None,
    output_format: "OutputFormat | None" = None,
    fd: int = 1,
    follow: bool = False,
    last: "int | None" = None,
    from_nth: "int | None" = None,
    on_note: "Callable[[str], None] | None" = None,
    stop: "Callable[[], bool] | None" = None,
    more_files: "Callable[[int], None] | None" = None,
) -> EmitReport:
    """Write the selected records of ``topic`` to ``fd``.

    :param selection: which ones; None: all.
    :param last: only the last so many of what is there, counted in the merged output.
    :param from_nth: begin with this one of the merged output, counted from 1.
    :param follow: go on with what is appended later, until ``stop`` says so, the topic is deleted, or nobody
        reads ``fd`` any more.
    :param on_note: told, in a line, what the user should know.
    :param stop: asked between pieces, and 10 times a second while waiting; true ends it cleanly. A signal
        handler that has to break off a write to a full pipe raises instead.
    :param more_files: as :class:`pspf.store.reading.Stream` takes it.
    :raises BrokenPipeError: nobody reads ``fd`` any more.
    :raises pspf.errors.NoSuchTopic: there is no such topic, and ``follow`` is not set.
    :raises pspf.errors.TopicDeleted: it was deleted meanwhile; what was read before was written.
    :raises pspf.errors.Usage: a format that means nothing.
    """
    how = output_format if output_format is not None else OutputFormat()
    report = EmitReport()
    escape = not how.raw and isatty(fd)
    lines = (
        how.separator == b"\n"
        and how.key_separator is None
        and how.format is None
        and not how.json
        and not escape
    )
    output = Output(fd)
    if (
        lines
        and selection is None
        and last is None
        and from_nth is None
        and stop is None
        and not follow
        and store.partition_count(topic) == 1
    ):
        reader = store.reader(topic, 0)
        try:
            _copy_lines(reader, output, how.null or b"", report)
        finally:
            reader.close()
        return report

    from pspf.store.formats import renderer
    from pspf.store.reading import Stream

    render = renderer(how, topic, escape)
    stream = Stream(store, topic, selection, follow, last, from_nth, on_note, stop, more_files)
    report.damage = stream.damage
    try:
        while True:
            chunk = stream.next()
            if chunk is None:
                output.flush()
                if stream.finished:
                    break
                if stream.wait(also_fd=fd) == "hangup":
                    raise BrokenPipeError(32, "nobody reads the output any more")
                continue
            region = chunk.region() if lines else None
            output.add(region if region is not None else render(chunk))
            report.records += chunk.count
            if follow and not stream.ready:
                output.flush()  # before looking for more
    except pspf.errors.Error:
        output.flush()
        raise
    finally:
        stream.close()
    return report


def _copy_lines(reader: "PartitionReader", output: Output, null: bytes, report: EmitReport) -> None:
    """All that is visible now in one partition, each value and a newline; damage ends it."""
    try:
        start, end = reader.start(), reader.end()
        if start:
            reader.seek(start)
        while reader.next_offset < end:
            batches = reader.read()
            if not batches:
                break
            for raw in batches:
                columns = raw.columns()
                if raw.header.flags & FLAG_LINES:
                    output.add(columns.region())
                else:
                    values = [null if value is None else value for value in columns.values()]
                    output.add(b"\n".join(values) + b"\n")
                report.records += raw.header.count
    except pspf.errors.Damaged as error:
        report.damage.append(error)
    except ValueError as error:
        from pspf.store.merge import bad_columns

        report.damage.append(bad_columns(raw, reader.partition, error))
    except pspf.errors.Error:
        output.flush()
        raise
    output.flush()
