"""Scenarios of several processes that meet on one disk, between any two calls of each other.

Each is made for a seed, from which the order of their calls follows, and what was there before. The first
process is the one that a sweep ends; with ``how=PowerCut`` all of them end with it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random

from pspf import errors
from pspf.format.encode import encode_records
from pspf.format.slots import SECOND_SLOT
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing.crashes import MODELS
from pspf.testing.faults import Killed
from pspf.testing.ledger import ABSENT, PENDING, Batch, read_all
from pspf.testing.medium import PAGE
from pspf.testing.scenarios import Appends
from pspf.testing.scenarios_names import (
    CreatedAndDeleted,
    DeletedAndMadeByAppends,
    DeletedBesideReaders,
    DeletedBesideWriters,
    MorePartitions,
    NeverUsed,
    Renamed,
    TwoCreate,
)
from pspf.testing.simdisk import SimDisk
from pspf.testing.together import Look, Together, Work

# -- appends


class Interleaved(Together):
    """Everybody appends."""

    turning = False
    size = 60

    def __init__(self, seed: int, stay: float, processes: int = 2, count: int = 4) -> None:
        super().__init__(seed)
        self.stay = stay
        self.processes = processes
        self.count = count

    def works(self) -> list[Work]:
        return [
            partial(self.appends, name=f"w{number}", count=self.count, size=self.size)
            for number in range(self.processes)
        ]


class InterleavedRoll(Interleaved):
    segment_bytes = 64 << 10
    size = 25_000


class InterleavedFirst(Interleaved):
    """Everybody comes first: store, topic and partition are made by whoever is faster."""

    prepared = False

    def appends(self, disk: SimDisk, name: str = "w", count: int = 3, size: int = 60) -> None:
        with self.open(disk) as store:
            for _ in range(count):
                self.ledger.append(store, name, size=size)
                self.created = True


class CloseAndOpen(Together):
    """The last one that closes gives the preallocated zeros back, while the next one opens."""

    def works(self) -> list[Work]:
        return [partial(self.opens, name=f"w{number}") for number in range(2)]

    def opens(self, disk: SimDisk, name: str) -> None:
        for _ in range(3):
            self.appends(disk, name, count=2)


class Levels(Together):
    """One appends with the durability of the topic, one with ``sync``: that makes everything before it
    durable, too.
    """

    def __init__(self, seed: int, durability: str) -> None:
        super().__init__(seed)
        self.durability = durability
        self.durable = 0

    def works(self) -> list[Work]:
        return [self.appends, self.appends_durably]

    def appends(self, disk: SimDisk, name: str = "w", count: int = 5, size: int = 60) -> None:
        with self.open(disk) as store:
            for _ in range(count):
                self.ledger.append(store, name, size=size)
                disk.advance(200_000_000)

    def appends_durably(self, disk: SimDisk) -> None:
        with self.open(disk) as store:
            for _ in range(3):
                batch = self.ledger.append(store, "sync", durability="sync")
                self.durable = max(self.durable, batch.first + 1)

    def knows(self) -> object:
        return super().knows(), self.durable

    def recover(self, disk: SimDisk, cut: bool) -> None:
        with self.open(disk) as store:
            left = len(read_all(store, "t", 1)[0])
            assert left >= self.durable, f"{left} records are left of {self.durable} that were durable"
        super().recover(disk, cut)


# -- what somebody left


class Left(Together):
    """A process died in the midst of appends, perhaps in a power cut; two newcomers recover at once."""

    def __init__(self, seed: int, cut: bool) -> None:
        super().__init__(seed)
        self.cut = cut

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        rng = Random(self.seed)
        dying = disk.process()
        dying.stop_after(rng.randrange(1, 16), torn=rng.choice((None, PAGE)))
        try:
            with self.open(dying) as store:
                for _ in range(4):
                    # The last one is split into batches.
                    count, size, piece = rng.choice(((1, 60, 0), (1, 3000, 0), (8, 60, 0), (8, 3000, 6)))
                    self.ledger.append(store, "left", count=count, size=size, piece=piece)
        except Killed:
            pass
        if self.cut:
            disk = rng.choice(list(disk.crash_states(self.seed, 8, rng.choice(MODELS))))
        return disk.process()

    def works(self) -> list[Work]:
        return [partial(self.appends, name=name, count=2) for name in ("one", "two")]

    def observe(self, disk: SimDisk) -> None:
        # Who may not settle the log goes to the published end, and that may be old; what is shown stays.
        opened = open_store(self.path, create=False, read_only=True, disk=disk)
        with opened as store, Look(self.ledger) as look:
            look.whole = False
            look.found = read_all(store, "t", self.partitions)


class LeftToAReader(Left):
    """A reader comes first and settles what it can, while a writer opens."""

    def works(self) -> list[Work]:
        return [self.reads, partial(self.appends, count=2)]


class LeftToAFollower(Left):
    """As before, with a reader that stays."""

    def works(self) -> list[Work]:
        return [partial(self.appends, name="one", count=2), self.follows, partial(self.appends, name="two")]


class Doubt(Left):
    """``commit`` is unreadable and bytes are behind the end: one repairs while another one opens."""

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        disk.sync_all()
        for position in (0, SECOND_SLOT):
            disk.flip(f"{self.path}/topics/t/0/commit", position + 20)
        return disk

    def works(self) -> list[Work]:
        return [self.repairs, partial(self.tries, name="w")]

    def repairs(self, disk: SimDisk) -> None:
        with self.open(disk) as store:
            for _ in range(3):
                try:
                    store.repair("t", 0)
                    self.ledger.append(store, "repaired")
                    return
                except (errors.Busy, errors.Damaged):
                    pass

    def tries(self, disk: SimDisk, name: str) -> None:
        with self.open(disk) as store:
            for _ in range(6):
                try:
                    self.ledger.append(store, name)
                except errors.Damaged:
                    store.close_writers("t")

    def observe(self, disk: SimDisk) -> None:
        with suppress(errors.Damaged):  # who may not write cannot derive it
            super().observe(disk)

    def recover(self, disk: SimDisk, cut: bool) -> None:
        with self.open(disk) as store:
            self.ledger.check(read_all(store, "t", 1))
            store.repair("t", 0)
        super().recover(disk, cut)


# -- syncs that fail


class SyncFails(Together):
    """A sync fails in one process while another one appends; both go on."""

    def __init__(self, seed: int, call: str, lies: str, keep_size: bool = False, size: int = 60) -> None:
        super().__init__(seed)
        self.fault = call, lies, keep_size
        self.size = size
        if size > 60:
            self.segment_bytes = 64 << 10

    def run(self, disk: SimDisk) -> None:
        call, lies, keep_size = self.fault
        name = ".log" if call == "pwrite" else ""
        disk.fail(call, self.seed // 2 % 7, lies=lies, keep_size=keep_size, name=name)
        super().run(disk)

    def works(self) -> list[Work]:
        return [partial(self.goes_on, name=name, size=self.size) for name in ("one", "two")]

    def recover(self, disk: SimDisk, cut: bool) -> None:
        if disk.machine.broken:  # nothing helps but to mount it again, and then the cache is gone
            disk, cut = next(disk.crash_states(0, 1, "ordered")), True
        super().recover(disk, cut)


class SyncFailsBesideAFollower(SyncFails):
    def works(self) -> list[Work]:
        return [*super().works(), self.follows]


class HealedBesideALivingHandle(SyncFails):
    """A handle that was open when a sync failed can append nothing any more, however long it lives."""

    def works(self) -> list[Work]:
        return [partial(self.goes_on, name="heals", count=3), self.lives, self.lives]

    def lives(self, disk: SimDisk) -> None:
        try:
            with self.open(disk) as store:
                writer = store.partition_writer(store.topic("t"), 0)
                ended = False
                for _ in range(4):
                    value = b"lives %d" % len(self.ledger.batches)
                    batch = self.ledger.begin(f"lives {id(disk)}", 0, [value])
                    try:
                        placed = writer.append(encode_records((value,), None, 1, None, False))
                    except errors.Error as error:
                        self.ledger.failed(batch, error)
                        ended = True
                        continue
                    assert not ended, "a handle appends behind a failed sync"
                    self.ledger.acknowledged(batch, placed.first)
        except errors.IOFailed:
            pass


class Healing(Together):
    """The partition is poisoned, or its process died before it said so; two newcomers heal at once."""

    LIES = (("", False), ("clean", False), ("clean", True))

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        rng = Random(self.seed)
        dying = disk.process()
        lies, keep_size = rng.choice(self.LIES)
        fault = dying.fail("fdatasync", rng.randrange(2), lies=lies, keep_size=keep_size, name=".log")
        left = rng.choice((0, 1, 2, 3, 4, 5, 99))

        def ends(call: str) -> None:
            nonlocal left
            left -= fault.hits
            if left < 0:
                dying.kill()

        dying.before_call = ends
        try:
            self.goes_on(dying, "left", count=2)
        except Killed:
            pass
        dying.before_call = None
        dying.heal()
        return disk.process()

    def works(self) -> list[Work]:
        return [partial(self.goes_on, name=name, count=2) for name in ("one", "two")]


# -- followers


class Followed(Interleaved):
    """A reader stays open while others append."""

    def works(self) -> list[Work]:
        return [*super().works(), self.follows]


class FollowedRoll(Followed):
    segment_bytes = 64 << 10
    size = 25_000


# -- producers


class ProducerHandsOver(Together):
    """A producer goes on in another process where it was ended, and repeats what it does not know."""

    turning = False

    def works(self) -> list[Work]:
        raise NotImplementedError

    def run(self, disk: SimDisk) -> None:
        try:
            self.produces(disk)
        except Killed:
            pass
        self.produces(disk.process())

    def produces(self, disk: SimDisk, count: int = 4) -> None:
        with self.open(disk) as store:
            for sequence in range(count):
                self.produce(store, sequence)

    def produce(self, store: Store, sequence: int) -> None:
        batch = self.flight(sequence)
        row = store.append("t", batch.values[0], partition=0, producer="p", sequence=sequence)
        if row.first >= 0:
            assert batch.first in (-1, row.first), f"appended at {row.first}, too: {batch}"
            self.ledger.acknowledged(batch, row.first)

    def flight(self, sequence: int) -> Batch:
        """The record of that number, whoever appends it."""
        mine = [batch for batch in self.ledger.batches if batch.writer == "p"]
        if sequence == len(mine):
            return self.ledger.begin("p", 0, [b"flight %d" % sequence])
        if mine[sequence].state == ABSENT:
            mine[sequence].state = PENDING
        return mine[sequence]

    def go_on(self, store: Store, partition: int) -> None:
        for sequence in range(len([batch for batch in self.ledger.batches if batch.writer == "p"])):
            self.produce(store, sequence)
        super().go_on(store, partition)


class ProducerTwice(ProducerHandsOver):
    """Two processes use one name at once: each record is there once, whoever appended it."""

    def works(self) -> list[Work]:
        return [self.produces, self.produces]

    run = Together.run


TOGETHER: dict[str, Callable[[int], Appends]] = {
    "two writers between calls": lambda seed: Interleaved(seed, 0.5),
    "three writers between calls": lambda seed: Interleaved(seed, 0.8, processes=3, count=3),
    "two writers roll": lambda seed: InterleavedRoll(seed, 0.7),
    "two writers come first": lambda seed: InterleavedFirst(seed, 0.7, count=2),
    "the last one closes, another opens": CloseAndOpen,
    "writers of os and of sync": lambda seed: Levels(seed, "os"),
    "writers of interval and of sync": lambda seed: Levels(seed, "interval"),
    "two recover what a killed one left": lambda seed: Left(seed, False),
    "two recover what a power cut left": lambda seed: Left(seed, True),
    "a reader settles, a writer opens": lambda seed: LeftToAReader(seed, bool(seed % 2)),
    "a follower, and two that recover": lambda seed: LeftToAFollower(seed, bool(seed % 2)),
    "one repairs, another one opens": lambda seed: Doubt(seed, bool(seed % 2)),
    "two heal at once": Healing,
    "healed beside living handles": lambda seed: HealedBesideALivingHandle(seed, "fdatasync", "clean"),
    "a sync fails beside another": lambda seed: SyncFails(seed, "fdatasync", ""),
    "a sync fails beside another, pages clean": lambda seed: SyncFails(
        seed, "fdatasync", "clean", bool(seed % 2)
    ),
    "a journal is aborted beside another": lambda seed: SyncFails(seed, "fdatasync", "aborted"),
    "a write-back fails beside another": lambda seed: SyncFails(seed, "pwrite", "writeback", bool(seed % 2)),
    "a sync fails at a roll beside another": lambda seed: SyncFails(seed, "fdatasync", "clean", size=25_000),
    "a follower, and a sync fails": lambda seed: SyncFailsBesideAFollower(seed, "fdatasync", "clean"),
    "a follower, and two writers": lambda seed: Followed(seed, 0.6),
    "a follower, and two writers roll": lambda seed: FollowedRoll(seed, 0.7, count=3),
    "two create one topic": TwoCreate,
    "one creates what another one deletes": CreatedAndDeleted,
    "a topic is deleted beside writers": DeletedBesideWriters,
    "a topic is deleted and made by appends": DeletedAndMadeByAppends,
    "a topic is deleted beside readers": lambda seed: DeletedBesideReaders(seed, size=25_000),
    "a topic without partitions is deleted": NeverUsed,
    "a topic is renamed beside a writer": Renamed,
    "partitions are added beside writers": MorePartitions,
    "a producer hands over": ProducerHandsOver,
    "a producer twice at once": ProducerTwice,
}
"""Scenarios by name, each made for a seed."""
