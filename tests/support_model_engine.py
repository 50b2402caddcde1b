"""The engine beside its model: processes and their ends, calls and their errors, and the look at all of it.

:class:`Beside` is what the rules of :mod:`tests.test_model` stand on; the model is in
:mod:`tests.support_model`.
"""

import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from random import Random
from typing import NamedTuple, TypeVar

import pytest

from pspf import errors
from pspf.format.segment import base_of
from pspf.log.reader import PartitionReader
from pspf.model import Appended, TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store, partition_of
from pspf.testing import Killed, PowerCut, SimDisk
from pspf.testing.faults import Fault, Stopped
from pspf.testing.medium import Directory, File
from tests.support_model import (
    CLOCK_MS,
    PIECE_BYTES,
    Batch,
    Headers,
    ModelTopic,
    Names,
    Part,
    Read,
    Wanted,
    World,
    payload,
    pieces,
    read_all,
)

STORE = "/store"
COUNTS: Counter[str] = Counter()
RNG = Random(0)
"""Ids are taken from here; each example begins it anew, so that a failure can be seen again."""

VISIBLE = "readers go to the visible end of a poisoned partition whose records a power cut took"
TOLERATED = {VISIBLE}
"""Known defects of the engine (docs/bugs.md), for the machine to go on behind them. One that is mended goes
from here."""
T = TypeVar("T")


def same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in :mod:`tests.test_crash_states`: ids from a seed, small files, and no thread that syncs."""
    monkeypatch.setattr(os, "urandom", RNG.randbytes)
    for module in ("pspf.log.create", "pspf.store.lifecycle"):
        monkeypatch.setattr(f"{module}.urandom", RNG.randbytes)
    monkeypatch.setattr("pspf.store.init.RESERVE_BYTES", 4096)
    monkeypatch.setattr("pspf.store.many.BATCH_BYTES", PIECE_BYTES)
    monkeypatch.setattr("pspf.log.timer.start_timer", lambda writer: None)


class Disk(SimDisk):
    """Closing a file is no place for an end: objects do it when they are collected, which may be outside of
    any call, where nobody would be told. The next call is."""

    __slots__ = ()

    def close(self, fd: int) -> None:
        stop, self._stop = self._stop, None
        if not self.machine.off:
            super().close(fd)
        self._stop = stop


class Plan(NamedTuple):
    """What a power cut leaves, who comes first behind it, and a second end in the middle of the recovery."""

    seed: int = 0
    place: int = 0
    model: str = "strict"
    reader_first: bool = False
    verify_first: bool = False
    again: int | None = None
    again_how: type[Stopped] = Killed


class Tail:
    """A reader that stays open. What it gave must be what a reader from the start is given."""

    def __init__(self, name: str, topic_id: bytes, part: Part, reader: PartitionReader, at: int) -> None:
        self.name = name
        self.topic_id = topic_id
        self.part = part
        self.reader = reader
        self.seen: list[Read] = part.log[:at]


class Worker:
    """A process that works, with its store while it is open."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.store: Store | None = None
        self.tails: list[Tail] = []
        self.appended: dict[tuple[bytes, int], int] = {}
        """(topic id, partition) -> the end behind what this store has appended since it was opened."""


End = tuple[int, type[Stopped]] | None
"""Behind which change, and how, a process ends."""
ENDED = object()
"""The outcome of a call in which the process, or the machine, came to its end."""


class Beside:
    """Two processes that work, one that looks, and what the store must hold."""

    def __init__(self) -> None:
        super().__init__()
        RNG.seed(0)
        self.faults: list[Fault] = []
        self.world = World()
        self.topics: dict[bytes, ModelTopic] = {}
        self.told: list[str] = []
        self.number = 0
        self.plan = Plan()
        self.making: TopicConfig | None = None
        self.hit = self.ever_hit = self.lied = False
        self.cuts = self.looks = self.segments = 0
        self.checked = -1
        disk = Disk()
        open_store(STORE, disk=disk).close()
        disk.sync_all()
        self.start(disk)

    def there(self, name: str) -> str:
        """A topic that is there instead of one that is not, mostly: what is refused at once shows little."""
        names = self.world.names
        return name if name in names or name == "c" or not names else sorted(names)[ord(name) % len(names)]

    # -- processes and their ends

    def start(self, disk: SimDisk) -> None:
        """Fresh processes on a machine."""
        self.machine = disk.machine
        self.faults.clear()
        self.looker = disk.process()
        self.looker.faults = []
        self.observer = open_store(STORE, create=False, read_only=True, disk=self.looker)
        self.workers = [self.fresh() for _ in range(2)]
        self.checked = -1

    def fresh(self) -> Worker:
        process = self.looker.process()
        process.faults = self.faults
        return Worker(process)

    def attempt(self, who: int, call: Callable[[Store], T]) -> "T | errors.Error | object":
        """The call's result, its error, or ``ENDED`` where the process did not live to see one."""
        worker = self.workers[who]
        before = sum(fault.hits for fault in self.faults)
        outcome: T | errors.Error | object
        try:
            if worker.store is None:
                worker.store = open_store(STORE, create=False, disk=worker.disk, tell=self.told.append)
                worker.appended.clear()
            outcome = call(worker.store)
        except Killed:
            COUNTS["killed in a call"] += 1
            self.workers[who] = self.fresh()
            outcome = ENDED
        except PowerCut:
            COUNTS["power cut in a call"] += 1
            self.note_faults(before)
            self.cut()
            return ENDED
        except errors.Error as error:
            outcome = error
        self.note_faults(before)
        return outcome

    def note_faults(self, before: int) -> None:
        hits = sum(fault.hits for fault in self.faults)
        self.hit = hits > before or bool(self.machine.broken)
        self.lied |= any(fault.hits and fault.lies == "writeback" for fault in self.faults)
        if hits > before:
            COUNTS["calls with a fault"] += 1
            self.ever_hit = True
            if any(f.hits and (f.lies or f.call in ("fsync", "fdatasync")) for f in self.faults):
                # What was acknowledged as less than durable may be cut by the heal.
                for topic in self.topics.values():
                    for part in topic.parts.values():
                        part.shaky = True

    def excuse(self, error: object, *allowed: type[errors.Error]) -> None:
        """Raise an error for which there is no reason; damage never has one."""
        assert isinstance(error, errors.Error), error
        if isinstance(error, allowed):
            return
        if not isinstance(error, errors.Damaged) or self.machine.broken:
            if self.hit or self.lied:  # a failed write-back is told by any later sync
                return
            if isinstance(error, errors.Poisoned | errors.OutcomeUnknown) and self.ever_hit:
                return  # a handle that was open at the failed sync says so once
        raise error

    def told_of_a_rename(self, name: str, topic_id: bytes) -> tuple[type[errors.Error], ...]:
        """What a store may say that remembers a topic under a name which it has no more."""
        return () if self.world.names.get(name) == topic_id else (errors.TopicDeleted,)

    def close_store(self, who: int) -> object:
        worker = self.workers[who]
        if worker.store is None:
            return True
        appended, tails = dict(worker.appended), worker.tails[:]

        def close(store: Store) -> bool:
            for tail in tails:
                tail.reader.close()
            store.close()
            return True

        outcome = self.attempt(who, close)
        worker.tails.clear()
        if outcome is ENDED:
            return ENDED
        worker.store = None
        if outcome is not True:
            self.excuse(outcome, errors.TopicDeleted)
            # What it leaves open of its files goes with the process.
            worker.disk.kill()
            self.workers[who] = self.fresh()
            return outcome
        self.look()
        for (topic_id, number), end in appended.items():
            part = self.topics[topic_id].part(number)
            if not part.shaky:  # a handle that has told of a failed sync has nothing more to say
                part.stable(end)
        return True

    def cut(self) -> None:
        """The power goes; on with what that leaves."""
        COUNTS["power cuts"] += 1
        self.cuts += 1
        plan, self.plan = self.plan, self.plan._replace(again=None, seed=self.plan.seed + 1)
        states = self.looker.crash_states(plan.seed, plan.place + 1, plan.model)
        state = list(islice(states, plan.place + 1))[-1]
        for worker in self.workers:
            worker.disk.kill()
        self.looker.kill()
        for topic in self.topics.values():
            for part in topic.parts.values():
                part.cut = True
        self.start(state)
        self.names_after_cut()
        if plan.verify_first and all(topic.modes == {"sync"} for topic in self.topics.values()):
            self.check_verify()
        self.recover(plan)
        self.ever_hit = self.lied = False

    def recover(self, plan: Plan) -> None:
        """Open everything, perhaps with another end on the way."""
        if plan.again is not None:
            self.workers[0].disk.stop_after(plan.again, plan.again_how)
        for _ in range(3):
            outcome = self.attempt(0, partial(self.open_all, plan.reader_first))
            if outcome is not ENDED:
                break
            COUNTS["ended in recovery"] += 1
        if outcome is not True:
            self.excuse(outcome)
        self.workers[0].disk.stop_after(1 << 60)

    def open_all(self, reader_first: bool, store: Store) -> bool:
        for name, topic_id in self.world.names.items():
            topic = self.topics[topic_id]
            for number in range(store.topic(name).config.partitions):
                part = topic.part(number)
                lossy = self.ever_hit and topic.modes != {"sync"}
                if VISIBLE in TOLERATED:
                    reader_first = reader_first and not lossy
                if not reader_first:
                    store.partition_writer(store.topic(name), number)
                self.follow(topic, part, read_all(store, name, number), settled=True)
        return True

    # -- looking

    def look(self) -> None:
        """Compare everything, if anything has changed."""
        if self.checked == self.machine.now:
            return
        self.checked = self.machine.now
        names = self.names_found()
        assert names == self.world.names
        for name, topic_id in names.items():
            topic = self.topics[topic_id]
            config = self.observer.topic(name).config
            assert config in topic.configs, f"{config} is none of {topic.configs}"
            if not self.unreadable(topic):
                for number in range(config.partitions):
                    self.follow(topic, topic.part(number), read_all(self.observer, name, number))
        segments = sum(base_of(name) > 0 for place in self.partition_directories() for name in place.entries)
        COUNTS["rolls and heals"] += max(segments - self.segments, 0)
        self.segments = segments
        assert not [line for line in self.told if "damage" in line or "missing" in line], self.told
        COUNTS["torn end cut"] += sum("never acknowledged" in line for line in self.told)
        self.told.clear()
        self.looks += 1
        if self.looks % 4 == 0:
            self.check_verify()

    def unreadable(self, topic: ModelTopic) -> bool:
        """Behind an aborted journal the cache is the only place where some records are, and may go."""
        return bool(self.machine.broken) and topic.modes != {"sync"}

    def names_found(self) -> Names:
        found = {}
        for name in self.observer.topics():
            self.observer.forget(name)
            found[name] = self.observer.topic(name).topic_id
        return found

    def follow(self, topic: ModelTopic, part: Part, found: list[Read], settled: bool = False) -> None:
        was_cut = part.cut
        part.follow(found, COUNTS)
        # What came through a power cut is on the disk. With ``sync`` nobody sees what a cut could take (P3).
        if was_cut or topic.modes == {"sync"}:
            part.stable(len(part.log))
        if was_cut:
            for batch in part.waiting:  # less than durable, and gone; or not settled yet
                batch.acknowledged = False
        if settled:
            assert part.shaky or not any(batch.acknowledged for batch in part.waiting), (
                f"not found again: {part}"
            )

    def check_verify(self) -> None:
        if self.machine.broken:
            return
        damage = [finding for finding in self.observer.verify().findings if finding.severity == "damage"]
        assert not damage, damage

    def partition_directories(self) -> list[Directory]:
        found: list[Directory] = []
        node: Directory | File = self.machine.root
        for name in (*STORE.strip("/").split("/"), "topics"):
            assert isinstance(node, Directory)
            node = node.entries[name]
        assert isinstance(node, Directory)
        for topic in node.entries.values():
            if isinstance(topic, Directory):
                found += [each for each in topic.entries.values() if isinstance(each, Directory)]
        return found

    # -- topics

    def names_after_cut(self) -> None:
        found = self.names_found()
        for name, topic_id in found.items():
            if topic_id not in self.topics:  # made by the call that the power cut ended
                assert self.making is not None and self.world.open[-1] == ("", name, b"")
                self.topics[topic_id] = ModelTopic(self.making)
                self.world.open[-1] = ("", name, topic_id)
        assert found in self.world.possible(), f"{found} is none of {self.world.possible()}"
        gone = set(self.world.names.values()) - set(found.values())
        deleted = {topic_id for _, new, topic_id in self.world.open if not new}
        for topic_id in gone - deleted:
            assert not any(part.durable for part in self.topics[topic_id].parts.values()), "a topic is gone"
        for name, topic_id in found.items():
            topic = self.topics[topic_id]
            config = self.observer.topic(name).config
            assert config in topic.configs
            topic.configs = [config]
            for number, part in topic.parts.items():
                assert number < config.partitions or not part.durable, f"partition {number} is gone: {part}"
        self.world.names = found
        self.world.settled()

    # -- appends

    def wanted(
        self, size: int, key: bytes | None = None, headers: Headers = (), time: int | None = None
    ) -> Wanted:
        self.number += 1
        now = self.machine.clock_ns // 1_000_000
        early, late = (now, now + CLOCK_MS) if time is None else (time, time)
        return Wanted(early, late, key, payload(self.number, size), headers)

    def put(
        self,
        who: int,
        name: str,
        place: int | None,
        records: list[Wanted],
        *,
        many: bool = False,
        level: str | None = None,
        producer: str | None = None,
        behind: int = 0,
        off: int | None = None,
        fresh: bool = False,
        stale: bool = False,
    ) -> bool:
        """One call of append or append_many; whether nothing stood in its way."""

        name = name if stale else self.there(name)

        def begin(store: Store) -> tuple[Store, bytes, int]:
            topic = store.topic(name)
            if fresh:
                store.forget(name)
                topic = store.topic(name)
            return store, topic.topic_id, topic.config.partitions

        outcome = self.attempt(who, begin)
        if not isinstance(outcome, tuple):
            if outcome is not ENDED:
                self.excuse(outcome, errors.NoSuchTopic)
            return outcome is ENDED
        store, topic_id, partitions = outcome
        self.look()  # what the call comes upon
        topic = self.topics[topic_id]
        by_place: dict[int, list[Wanted]] = {}
        keyed = any(record.key is not None for record in records)
        if place is not None:
            by_place[place % partitions] = records
        elif many and keyed:
            # A record without a key goes in turn, which only the engine knows: give each one.
            records = [record._replace(key=record.key or b"") for record in records]
        if place is None and keyed:
            for record in records:
                by_place.setdefault(partition_of(record.key or b"", partitions), []).append(record)
        elif place is None:
            turn = 0 if partitions == 1 else (store.place(store.topic(name), None) + 1) % partitions
            by_place[turn] = records
        source = expect = None
        if producer is not None:
            (number,) = by_place
            part = topic.part(number)
            source = (producer, part.next_sequence(producer) - behind)
            if source[1] < 0:
                return True
        if off is not None:
            (number,) = by_place
            expect = max(len(topic.part(number).log) + off, 0)
        batches: list[tuple[int, Batch]] = []
        for number, group in sorted(by_place.items()):
            call = self.number = self.number + 1
            for piece in pieces(group) if many else [group]:
                self.number += 1
                batches.append((number, Batch(self.number, call, piece, source)))
        for number, batch in batches:
            topic.part(number).waiting.append(batch)
        time = None if records[0].early_ms != records[0].late_ms else records[0].early_ms
        fixed = None if place is None else place % partitions

        def call_it(store: Store) -> list[Appended]:
            if many:
                return store.append_many(
                    name,
                    [record.value for record in records],
                    keys=[record.key for record in records] if keyed else None,
                    headers=records[0].headers,
                    timestamps_ms=time,
                    partition=fixed,
                    durability=level,
                    create=False,
                )
            (record,) = records
            row = store.append(
                name,
                record.value,
                key=record.key,
                headers=record.headers,
                timestamp_ms=time,
                partition=fixed,
                durability=level,
                producer=producer,
                sequence=source[1] if source else None,
                expect_offset=expect,
                create=False,
            )
            return [row]

        outcome = self.attempt(who, call_it)
        if outcome is ENDED:
            return True
        if isinstance(outcome, list):
            self.acknowledged(who, topic_id, topic, batches, outcome, expect)
            return True
        if not isinstance(outcome, self.told_of_a_rename(name, topic_id)):
            self.failed(topic_id, topic, batches, outcome, source, expect)
            return False
        for number, batch in batches:
            topic.part(number).drop(batch)
        return False

    def acknowledged(
        self,
        who: int,
        topic_id: bytes,
        topic: ModelTopic,
        batches: list[tuple[int, Batch]],
        rows: list[Appended],
        expect: int | None,
    ) -> None:
        # A delete that was ended half-way may leave the topic at work under another name.
        left = any(name.startswith(".del-") for name in self.looker.listdir(self.observer.topics_fd))
        assert topic_id in self.world.names.values() or left, "acknowledged in a deleted topic"
        assert [row.partition for row in rows] == [number for number, _ in batches]
        COUNTS["acknowledged"] += len(rows)
        for row, (number, batch) in zip(rows, batches, strict=True):
            part = topic.part(number)
            if row.duplicate:
                self.repeated(part, batch, row)
                continue
            assert row.last - row.first + 1 == len(batch.records)
            assert expect in (None, row.first)
            batch.acknowledged, batch.first = True, row.first
        self.checked = -1
        self.look()
        for row, (number, batch) in zip(rows, batches, strict=True):
            part = topic.part(number)
            if topic_id in self.world.names.values() and (
                row.durability == "sync" or "sync" not in topic.modes
            ):
                assert batch not in part.waiting, f"acknowledged, and not to be seen: {part}"
            if row.durability == "sync":
                part.stable(row.last + 1)
            if not row.duplicate:
                self.workers[who].appended[topic_id, number] = row.last + 1

    def repeated(self, part: Part, batch: Batch, row: Appended) -> None:
        COUNTS["duplicate recognised"] += 1
        part.drop(batch)
        earlier = [each for each in part.waiting if each.source == batch.source]
        assert batch.source in part.sources or earlier, f"a duplicate of nothing: {batch}, {part}"
        if batch.source in part.sources and row.first >= 0:
            assert part.sources[row.first] == batch.source
        elif row.first >= 0:
            earlier[-1].acknowledged, earlier[-1].first = True, row.first

    def failed(
        self,
        topic_id: bytes,
        topic: ModelTopic,
        batches: list[tuple[int, Batch]],
        error: object,
        source: tuple[str, int] | None,
        expect: int | None,
    ) -> None:
        """Only some errors leave the outcome open; after all others nothing may be there, ever."""
        in_doubt = isinstance(error, errors.OutcomeUnknown | errors.Poisoned) or len(batches) > 1
        for number, batch in [] if in_doubt else batches:
            topic.part(number).drop(batch)
        COUNTS[f"append failed: {type(error).__name__}"] += 1
        if topic_id not in self.world.names.values():
            assert isinstance(error, errors.Error) and not isinstance(error, errors.Damaged), error
            return
        part = topic.part(batches[0][0])
        if isinstance(error, errors.OffsetConflict):
            assert part.waiting or expect != len(part.log), f"{error}, but {part}"
        elif isinstance(error, errors.ProducerConflict):
            assert source is not None
            # A batch that nobody sees yet may have the sequence that the model counts on.
            assert part.waiting or source[1] > part.next_sequence(source[0]), f"{error}, but {part}"
        else:
            self.excuse(error)
