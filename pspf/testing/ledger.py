"""What a test knows of the records it appended, and whether a log agrees with it.

A :class:`Ledger` is told of each append before it begins and when it is acknowledged. :meth:`Ledger.check`
then holds a log against the promises: acknowledged records are there once, in order, at their offsets, with
their bytes; what was not acknowledged is there as a whole or not at all; nothing else is there; no offset is
left out.
"""

from collections.abc import Sequence

from pspf import errors
from pspf.store.store import Store

Records = list[tuple[int, bytes | None]]
Found = dict[int, Records]
"""(offset, value) of each record, per partition."""

PENDING = "pending"
ACKNOWLEDGED = "acknowledged"
UNKNOWN = "unknown"
ABSENT = "absent"


class Batch:
    """Records appended by one call. ``pieces``: the batches that the call is split into, as record counts."""

    __slots__ = ("first", "partition", "pieces", "state", "values", "writer")

    def __init__(self, writer: str, partition: int, values: list[bytes], pieces: list[int]) -> None:
        self.writer = writer
        self.partition = partition
        self.values = values
        self.pieces = pieces
        self.state = PENDING
        self.first = -1

    def __deepcopy__(self, memo: dict[int, object]) -> "Batch":
        """Lists of its own; written out, since a sweep copies what it knows all day long."""
        other = Batch(self.writer, self.partition, self.values[:], self.pieces[:])
        other.state, other.first = self.state, self.first
        memo[id(self)] = other
        return other

    def __repr__(self) -> str:
        return f"{self.writer}: {self.values[0][:24]!r} x {len(self.values)}, {self.state}, at {self.first}"


class Ledger:
    """All appends to one topic."""

    def __init__(self, topic: str = "t") -> None:
        self.topic = topic
        self.batches: list[Batch] = []

    def append(
        self,
        store: Store,
        writer: str = "w",
        *,
        count: int = 1,
        size: int = 60,
        partition: int = 0,
        durability: str | None = None,
        piece: int = 0,
        create: bool = True,
    ) -> Batch:
        """Append ``count`` records of about ``size`` bytes and note the outcome; errors are passed on.

        :param piece: records in each batch that the call makes, if it is split.
        :param create: make the topic if it is not there.
        """
        number = sum(len(batch.values) for batch in self.batches)
        names = [f"{writer}.{number + i:06d}." for i in range(count)]
        values = [(name * (size // len(name) + 1))[: max(size, len(name))].encode() for name in names]
        pieces = [min(piece, count - at) for at in range(0, count, piece)] if piece else [count]
        batch = self.begin(writer, partition, values, pieces)
        try:
            if count == 1:
                rows = [
                    store.append(
                        self.topic, values[0], partition=partition, durability=durability, create=create
                    )
                ]
            else:
                rows = store.append_many(
                    self.topic, values, partition=partition, durability=durability, create=create
                )
        except errors.Error as error:
            self.failed(batch, error)
            raise
        assert [row.last - row.first + 1 for row in rows] == pieces
        self.acknowledged(batch, rows[0].first)
        return batch

    def begin(
        self, writer: str, partition: int, values: list[bytes], pieces: list[int] | None = None
    ) -> Batch:
        """Note an append before it is made."""
        batch = Batch(writer, partition, values, pieces or [len(values)])
        self.batches.append(batch)
        return batch

    def acknowledged(self, batch: Batch, first: int) -> None:
        """Note that the append returned, and where it said the records are."""
        batch.state = ACKNOWLEDGED
        batch.first = first

    def failed(self, batch: Batch, error: errors.Error) -> None:
        """Note an error. Only some say that the outcome is open; after all others nothing may be there."""
        open_end = isinstance(error, errors.OutcomeUnknown | errors.Poisoned) or len(batch.pieces) > 1
        if batch.state == ACKNOWLEDGED:  # by somebody who read it meanwhile
            assert open_end, f"told that it was not appended, and it was read: {batch}"
            return
        batch.state = UNKNOWN if open_end else ABSENT

    def check(self, found: Found, may_lose: bool = False) -> None:
        """Hold what was read, (offset, value) per partition, against the promises.

        :param may_lose: acknowledged was less than stable: the newest may be gone, in order.
        :raises AssertionError: a promise is broken.
        """
        for partition, records in found.items():
            offsets = [offset for offset, _ in records]
            assert offsets == list(range(len(offsets))), f"partition {partition}: offsets {_runs(offsets)}"
        for partition in {batch.partition for batch in self.batches} - set(found):
            found = {**found, partition: []}
        for partition, records in found.items():
            self._check_partition(partition, records, may_lose)

    def _check_partition(
        self, partition: int, records: "list[tuple[int, bytes | None]]", may_lose: bool
    ) -> None:
        where: dict[bytes | None, int] = {}
        for offset, value in records:
            assert value not in where, f"{value!r} at {where[value]} and again at {offset}"
            where[value] = offset
        mine = [batch for batch in self.batches if batch.partition == partition]
        strangers = set(where) - {value for batch in mine for value in batch.values}
        assert not strangers, f"records that nobody appended: {strangers}"
        last: dict[str, int] = {}
        for batch in mine:
            there = [where[value] for value in batch.values if value in where]
            first = there[0] if there else -1
            whole = _sums(batch.pieces)
            assert len(there) in whole, f"torn: {len(there)} records of {batch}"
            assert there == list(range(first, first + len(there))), f"not in one piece: {there} of {batch}"
            assert [value for value in batch.values if value in where] == batch.values[: len(there)]
            if batch.state == ACKNOWLEDGED:
                assert len(there) == len(batch.values) or may_lose, f"lost, {len(there)} left: {batch}"
                assert not there or first == batch.first, f"moved to {first}: {batch}"
            elif batch.state == ABSENT:
                assert not there, f"reported as not appended, and there at {first}: {batch}"
            if there:
                assert first > last.get(batch.writer, -1), f"before an earlier one of its writer: {batch}"
                last[batch.writer] = there[-1]

    def settle(self, found: Found, may_lose: bool = False) -> None:
        """After a recovery: what it kept is kept for good, and what it was allowed to lose is lost."""
        where = _places(found)
        for batch in self.batches:
            there = [value for value in batch.values if (batch.partition, value) in where]
            if there:
                batch.values = there
                batch.pieces = [len(there)]
                self.acknowledged(batch, where[batch.partition, there[0]])
            elif may_lose:
                batch.state = UNKNOWN

    def bury(self, found: Found) -> None:
        """Once something durable stands behind them: what is not there must not come back.

        Before that it may: a cut that was not synced may be undone, and nobody promised that it was gone.
        """
        where = _places(found)
        for batch in self.batches:
            if not any((batch.partition, value) in where for value in batch.values):
                batch.state = ABSENT

    def saw(self, found: Found) -> None:
        """What a reader was shown, acknowledged or not, must stay."""
        where = {
            (partition, value): offset for partition, records in found.items() for offset, value in records
        }
        for batch in self.batches:
            if batch.state in (PENDING, UNKNOWN) and (batch.partition, batch.values[-1]) in where:
                self.acknowledged(batch, where[batch.partition, batch.values[0]])

    def knows(self) -> object:
        """The knowledge that decides a check, hashable."""
        return tuple((batch.state, batch.first, len(batch.values)) for batch in self.batches)


def read_all(store: Store, topic: str, partitions: int) -> Found:
    """(offset, value) of every record that a reader is shown, per partition."""
    found: Found = {}
    for partition in range(partitions):
        records: Records = []
        reader = store.reader(topic, partition)
        try:
            while batches := reader.read():
                for batch in batches:
                    values = batch.columns().values()
                    records += zip(
                        range(batch.header.base_offset, batch.header.next_offset), values, strict=True
                    )
        finally:
            reader.close()
        found[partition] = records
    return found


def _places(found: Found) -> dict[tuple[int, bytes | None], int]:
    return {(partition, value): offset for partition, records in found.items() for offset, value in records}


def _sums(pieces: Sequence[int]) -> set[int]:
    total = 0
    found = {0}
    for piece in pieces:
        total += piece
        found.add(total)
    return found


def _runs(offsets: Sequence[int]) -> str:
    if len(offsets) <= 12:
        return str(list(offsets))
    return f"{list(offsets[:6])} … {list(offsets[-6:])}"
