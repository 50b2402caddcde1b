"""A writer that may gather records: many appends, one batch, one sync.

Without ``linger_ms`` each append is written and acknowledged before it returns. With it, ``append`` returns
at once with a :class:`Ticket`; the records go out when ``linger_ms`` have passed, a megabyte has gathered, or
``flush`` is called. Only ``ticket.wait()`` and ``flush()`` are acknowledgements. What a record can be refused
for is told by its own ``append``, so that it cannot fail those it would be gathered with; closing the writer
or its store flushes.
"""

from _thread import allocate_lock, start_new_thread
from _weakref import ref
from time import sleep

from pspf import errors
from pspf.model import Appended
from pspf.store.record import take_record, too_large

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.columns import Pairs
    from pspf.store.record import Value
    from pspf.store.store import Store

GATHER_BYTES = 1 << 20
GATHER_RECORDS = 10_000
_LONGEST_MS = 86_400_000


def make_writer(
    store: "Store",
    topic: str,
    partition: "int | None",
    durability: "str | None",
    linger_ms: "float | None",
    create: bool,
) -> "Writer":
    """A writer that its store flushes before it closes."""
    writer = Writer(store, topic, partition, durability, linger_ms, create)
    if linger_ms is not None:
        with store._mutex:
            # Weak: one that nobody has any more, and that holds records, is kept by its own thread.
            if store._gathering is None:
                raise errors.Closed("cannot use the store", "it is closed", store.path)
            store._gathering = [known for known in store._gathering if known() is not None]
            store._gathering.append(ref(writer))
    return writer


class Ticket:
    """Stands for the batches that an append went into. All appends of one gathering share it."""

    __slots__ = ("_writer", "error", "rows")

    def __init__(self, writer: "Writer") -> None:
        self._writer = writer
        self.rows: "list[Appended] | None" = None
        self.error: "BaseException | None" = None

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.rows is not None or self.error is not None

    def wait(self) -> "list[Appended]":
        """Return when the records are acknowledged: where they went, a row a batch.

        :raises pspf.errors.Error: what went wrong with them.
        """
        if not self.done:
            self._writer.flush()
        if self.error is not None:
            self._writer.told(self)
            raise self.error
        assert self.rows is not None
        return self.rows


class Writer:
    """Appends to one topic. A context manager; threads may share it.

    :param linger_ms: gather for at most so long; None writes each append at once.
    :raises pspf.errors.Usage: a linger below 0, or one that never ends.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_create",
        "_durability",
        "_flushing",
        "_headers",
        "_keyed",
        "_keys",
        "_linger_s",
        "_mutex",
        "_partition",
        "_size",
        "_store",
        "_ticket",
        "_ticking",
        "_times",
        "_topic",
        "_untold",
        "_values",
    )

    def __init__(
        self,
        store: "Store",
        topic: str,
        partition: "int | None",
        durability: "str | None",
        linger_ms: "float | None",
        create: bool,
    ) -> None:
        if linger_ms is not None and not (
            isinstance(linger_ms, (int, float)) and 0 <= linger_ms <= _LONGEST_MS
        ):
            why = f"it is a number of ms from 0 to {_LONGEST_MS}, or None"
            raise errors.Usage(f"cannot gather with linger_ms={linger_ms!r}", why)
        self._store = store
        self._topic = topic
        self._partition = partition
        self._durability = durability
        self._linger_s = None if linger_ms is None else linger_ms / 1000
        self._create = create
        self._closed = False
        self._ticking = False
        self._mutex = allocate_lock()
        self._flushing = allocate_lock()
        self._untold: "list[Ticket]" = []
        store.ensure_topic(topic, create)
        self._reset()

    def _reset(self) -> None:
        self._values: "list[bytes | None]" = []
        self._keys: "list[bytes | None]" = []
        self._times: "list[int]" = []
        self._headers: "list[Pairs]" = []
        self._keyed = False
        self._size = 0
        self._ticket = Ticket(self)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(
        self,
        value: "Value",
        *,
        key: "Value" = None,
        headers: "Pairs" = (),
        timestamp_ms: "int | None" = None,
    ) -> Ticket:
        """Append one record; see the module's text for when it is acknowledged.

        :raises pspf.errors.RecordTooLarge: the record alone; what was gathered is untouched.
        :raises pspf.errors.Usage: the same, for what no record can be.
        """
        if self._linger_s is None:
            self._demand_open()
            row = self._store.append(
                self._topic,
                value,
                key=key,
                headers=headers,
                timestamp_ms=timestamp_ms,
                partition=self._partition,
                durability=self._durability,
                create=self._create,
            )
            ticket = Ticket(self)
            ticket.rows = [row]
            return ticket
        raw, raw_key, pairs, size = take_record(self._topic, value, key, headers, timestamp_ms)
        store = self._store
        found = store.find_topic(self._topic) or store.ensure_topic(self._topic, self._create)[0]
        if size > found.config.max_record_bytes:
            raise too_large(self._topic, size, found.config.max_record_bytes)
        if timestamp_ms is None:
            timestamp_ms = store.disk.now_ns() // 1_000_000
        with self._mutex:
            self._demand_open()
            self._values.append(raw)
            self._keys.append(raw_key)
            self._times.append(timestamp_ms)
            if raw_key is not None:
                self._keyed = True
            if pairs or self._headers:
                self._headers.extend(() for _ in range(len(self._values) - 1 - len(self._headers)))
                self._headers.append(pairs)
            self._size += size
            ticket = self._ticket
            full = self._size >= GATHER_BYTES or len(self._values) >= GATHER_RECORDS
            start = not self._ticking and not full
            if start:
                self._ticking = True
        if start:
            start_new_thread(self._tick, ())
        elif full:
            self._send()
        return ticket

    def _demand_open(self) -> None:
        if self._closed:
            raise errors.Closed(f"cannot append to '{self._topic}'", "the writer is closed")

    def _tick(self) -> None:
        """The thread that sends what has lingered; it ends when nothing came for a while."""
        assert self._linger_s is not None
        idle = 0
        while not self._closed and idle < 50:
            sleep(self._linger_s)
            if self._values:
                idle = 0
                self._send()
            else:
                idle += 1
        with self._mutex:
            self._ticking = False
            again = bool(self._values) and not self._closed
            if again:
                self._ticking = True
        if again:
            self._tick()

    def _send(self) -> None:
        """Write and acknowledge what has gathered; errors go into its ticket."""
        with self._flushing:
            with self._mutex:
                if not self._values:
                    return
                values, times, ticket = self._values, self._times, self._ticket
                keys = self._keys if self._keyed else None
                headers = self._headers
                if headers:
                    headers.extend(() for _ in range(len(values) - len(headers)))
                self._reset()
            try:
                from pspf.store.many import append_many

                ticket.rows = append_many(
                    self._store,
                    self._topic,
                    values,
                    keys,
                    headers,
                    times,
                    self._partition,
                    self._durability,
                    self._create,
                    shared_headers=False,
                )
            except BaseException as error:
                ticket.error = error
                self._untold.append(ticket)

    def flush(self) -> "list[Appended]":
        """Acknowledge everything that was appended so far; where the last of it went.

        :raises pspf.errors.Error: what went wrong with records of this gathering.
        """
        with self._mutex:
            ticket = self._ticket
        self._send()
        with self._flushing:  # one that another thread sends has to end first
            untold, self._untold = self._untold, []
        if untold:
            raise untold[0].error or errors.IOFailed(f"cannot append to '{self._topic}'")
        return ticket.rows or []

    def told(self, ticket: Ticket) -> None:
        """The error of ``ticket`` has come out; it need not come out again."""
        if ticket in self._untold:
            self._untold.remove(ticket)

    def close(self) -> None:
        """Flush and end. Errors that no ticket has told come out here or in ``flush``."""
        with self._mutex:  # first, so that no append comes in between: nobody would send it
            if self._closed:
                return
            self._closed = True
        self.flush()
