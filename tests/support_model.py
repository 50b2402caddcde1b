"""What a store must hold, as dicts and lists: what :mod:`tests.test_model` runs the engine against.

A :class:`Part` knows what readers have seen of a partition, how much of that a power cut may not take, and
the batches of which it is open whether they are there. :meth:`Part.follow` holds what is found against that
and goes on with it. The same promises as in :mod:`pspf.testing.ledger`; that one tells records apart by their
values and batches by their writers, while here values repeat, and are null and empty, and everything that a
reader is shown is compared.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from random import Random
from typing import NamedTuple

from pspf.format.columns import unpack_headers
from pspf.format.encode import headers_bytes
from pspf.log.reader import PartitionReader, RawBatch
from pspf.model import TopicConfig
from pspf.store.store import Store

PIECE_BYTES = 16 << 10
"""Where the machine lets ``append_many`` split."""
CLOCK_MS = 200
"""A call may look at the clock so much later than it began."""

Headers = tuple[tuple[str, bytes | None], ...]
Names = dict[str, bytes]
"""Topic ids by name."""


class Read(NamedTuple):
    """A record as it was read."""

    append_ns: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Wanted(NamedTuple):
    """A record as it was given to the engine; the time lies between two, if the clock was to give it."""

    early_ms: int
    late_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def is_that(self, found: Read) -> bool:
        return self.early_ms <= found.time_ms <= self.late_ms and self[2:] == found[2:]

    @property
    def size(self) -> int:
        return (
            len(self.value or b"")
            + len(self.key or b"")
            + (headers_bytes(self.headers) if self.headers else 0)
        )


class Batch:
    """Records that are there together or not at all.

    :param call: pieces of one call are there from the first on, or not at all.
    :param source: producer and sequence.
    """

    __slots__ = ("acknowledged", "at", "call", "first", "number", "records", "source")

    def __init__(self, number: int, call: int, records: list[Wanted], source: tuple[str, int] | None) -> None:
        self.number = number
        self.call = call
        self.records = records
        self.source = source
        self.acknowledged = False
        self.first = -1
        self.at = -1

    def __repr__(self) -> str:
        state = f"acknowledged at {self.first}" if self.acknowledged else "open"
        return f"<batch {self.number} of {len(self.records)}, {state}, {self.records[0].value!r:.40}>"


class Part:
    """A partition.

    ``log``: what readers see. ``durable``: so much of it no power cut may take. ``waiting``: batches, in the
    order in which they were written, that may still turn up. ``ghosts``: batches that others were written
    over, and that an unsynced page may bring back while those others are not durable. ``shaky``: a sync has
    failed, so what was acknowledged as less than durable may be taken back. ``losses``: how often that was.
    """

    def __init__(self) -> None:
        self.log: list[Read] = []
        self.sources: list[tuple[str, int] | None] = []
        self.durable = 0
        self.waiting: list[Batch] = []
        self.ghosts: list[Batch] = []
        self.cut = False
        self.shaky = False
        self.losses = 0

    def next_sequence(self, producer: str) -> int:
        return sum(1 for source in self.sources if source is not None and source[0] == producer)

    def drop(self, batch: Batch) -> None:
        """It was not appended."""
        self.waiting = [each for each in self.waiting if each is not batch]

    def follow(self, found: list[Read], counts: "Counter[str]") -> None:
        """Hold what a reader is shown against what must be there.

        :raises AssertionError: a promise is broken.
        """
        may_lose = self.cut or self.shaky
        same = len(self.log)
        if found[:same] != self.log:
            same = next(
                (i for i, (a, b) in enumerate(zip(found, self.log, strict=False)) if a != b), len(found)
            )
            assert may_lose, f"{len(self.log) - same} records that were there are not, from {same}: {self}"
            assert same >= self.durable, f"records {same} to {self.durable - 1} were durable: {self}"
            self.losses += 1
            counts["acknowledged suffix lost, as allowed"] += 1
            del self.log[same:], self.sources[same:]
        rest = found[same:]
        batches = sorted([*self.ghosts, *self.waiting], key=lambda batch: batch.number)
        chosen = self._explain(rest, batches, False)
        if chosen is None and may_lose:
            chosen = self._explain(rest, batches, True)
        assert chosen is not None, f"records {same} to {len(found) - 1} are none that can be there: {self}"
        self._accept(rest, batches, chosen, counts)
        times = [record.append_ns for record in self.log[max(same - 1, 0) :]]
        assert times == sorted(times), f"append times go back: {times}"
        self.cut = False

    def _explain(self, rest: list[Read], batches: list[Batch], may_lose: bool) -> list[int] | None:
        """Which batches ``rest`` is made of, in order; None if it cannot be made of them."""
        expected: Counter[str] = Counter(source[0] for source in self.sources if source is not None)

        end_offset = len(self.log) + len(rest)

        def go(at: int, index: int, left_out: frozenset[int]) -> list[int] | None:
            if at == len(rest):
                # Records repeat: an open batch must not stand for the acknowledged one that is the same.
                missing = any(batch.acknowledged and batch.first < end_offset for batch in batches[index:])
                return None if missing and not may_lose else []
            if index == len(batches):
                return None
            batch = batches[index]
            source = batch.source
            end = at + len(batch.records)
            if (
                end <= len(rest)
                and batch.call not in left_out
                and batch.first in (-1, len(self.log) + at)
                and (source is None or source[1] == expected[source[0]])
                and all(w.is_that(r) for w, r in zip(batch.records, rest[at:end], strict=True))
            ):
                if source is not None:
                    expected[source[0]] += 1
                more = go(end, index + 1, left_out)
                if more is not None:
                    return [index, *more]
                if source is not None:
                    expected[source[0]] -= 1
            if batch.acknowledged and not may_lose:
                return None
            return go(at, index + 1, left_out | {batch.call})

        return go(0, 0, frozenset())

    def _accept(
        self, rest: list[Read], batches: list[Batch], chosen: list[int], counts: "Counter[str]"
    ) -> None:
        passed: list[Batch] = []
        for index, batch in enumerate(batches[: chosen[-1] + 1] if chosen else []):
            if index not in chosen:
                passed.append(batch)
                continue
            counts["open batch found"] += not batch.acknowledged
            counts["ghost found"] += batch in self.ghosts
            for each in passed:
                each.at = len(self.log) if each.at < 0 else min(each.at, len(self.log))
            batch.first = len(self.log)
            batch.acknowledged = True
            self.log += rest[: len(batch.records)]
            del rest[: len(batch.records)]
            self.sources += [batch.source] * len(batch.records)
            self.ghosts += [each for each in passed if each not in self.ghosts]
            passed = []
        taken = {batches[index] for index in chosen}
        last = batches[chosen[-1]].number if chosen else -1
        self.waiting = [batch for batch in self.waiting if batch.number > last]
        self.ghosts = [batch for batch in self.ghosts if batch not in taken]

    def stable(self, end: int) -> None:
        """Everything below ``end`` was acknowledged as durable."""
        self.durable = max(self.durable, min(end, len(self.log)))
        self.ghosts = [batch for batch in self.ghosts if batch.at >= self.durable]
        if self.durable == len(self.log) and not self.waiting:
            self.shaky = False

    def __repr__(self) -> str:
        return f"{len(self.log)} seen, {self.durable} durable, waiting {self.waiting}, ghosts {self.ghosts}"


class ModelTopic:
    """A topic. ``configs``: the settings that it may have, the newest last; ``modes``: each durability that
    it may ever have had, since what runs already goes on with the old one."""

    def __init__(self, config: TopicConfig) -> None:
        self.configs = [config]
        self.modes = {config.durability}
        self.parts: dict[int, Part] = {}

    def part(self, number: int) -> Part:
        return self.parts.setdefault(number, Part())

    def intends(self, config: TopicConfig) -> None:
        self.configs.append(config)
        self.modes.add(config.durability)


class World:
    """Names of topics: which certainly outlive a power cut, and the changes of which that is open."""

    def __init__(self) -> None:
        self.names: Names = {}
        self.stable: Names = {}
        self.open: list[tuple[str, str, bytes]] = []
        """(old name, new name, id): either may be "" for none."""

    def settled(self) -> None:
        """A change was acknowledged, and with it all before."""
        self.stable = dict(self.names)
        self.open.clear()

    def possible(self) -> list[Names]:
        """What may be there after a power cut."""
        worlds = [self.stable]
        for change in self.open:
            worlds += [changed(world, *change) for world in worlds]
        return worlds


def changed(names: Names, old: str, new: str, topic_id: bytes) -> Names:
    """``names`` after one change of names; unchanged where an earlier one is missing that it stands on."""
    if (old and names.get(old) != topic_id) or new in names:
        return names
    after = {name: each for name, each in names.items() if name != old}
    if new:
        after[new] = topic_id
    return after


# -- from and to the engine


def payload(number: int, size: int) -> bytes | None:
    """A value of its own; -1 for null. Every other one does not compress."""
    if size < 0:
        return None
    name = b"%d." % number
    rest = Random(number).randbytes(size) if number % 2 else name * (size // len(name) + 1)
    return (name + rest)[:size]


def pieces(records: Sequence[Wanted]) -> list[list[Wanted]]:
    """The batches that ``append_many`` makes of records for one partition."""
    found: list[list[Wanted]] = [[]]
    for record, total in zip(records, accumulate(record.size for record in records), strict=True):
        found[-1].append(record)
        done = sum(each.size for piece in found[:-1] for each in piece)
        if total - done >= PIECE_BYTES:
            found.append([])
    return [piece for piece in found if piece]


def reads(batches: Iterable[RawBatch]) -> list[tuple[int, Read]]:
    """(offset, record) of each record of some batches."""
    found: list[tuple[int, Read]] = []
    for batch in batches:
        columns, header = batch.columns(), batch.header
        count = header.count
        blobs = columns.header_blobs()
        found += zip(
            range(header.base_offset, header.base_offset + count),
            map(
                Read,
                [header.append_ns] * count,
                columns.timestamps() or [header.base_timestamp] * count,
                columns.keys() or [None] * count,
                columns.values(),
                [tuple(unpack_headers(blob)) for blob in blobs] if blobs else [()] * count,
            ),
            strict=True,
        )
    return found


def read_on(reader: PartitionReader) -> list[tuple[int, Read]]:
    """All that is visible from the reader's position on."""
    found: list[tuple[int, Read]] = []
    while batches := reader.read():
        found += reads(batches)
    return found


def read_all(store: Store, name: str, partition: int) -> list[Read]:
    """The whole of a partition, as a reader is shown it."""
    reader = store.reader(name, partition)
    try:
        found = read_on(reader)
    finally:
        reader.close()
    assert [offset for offset, _ in found] == list(range(len(found))), "offsets are left out, or come twice"
    return [record for _, record in found]
