"""The scenarios that PSPF itself is swept with, and patterns for those of your own program.

Each says what is done to a topic; what must hold after any end of it is said once, in :class:`Appends`.
"""

from collections.abc import Callable

from pspf import errors
from pspf.format.slots import parse_lock
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing.faults import Killed
from pspf.testing.ledger import ABSENT, ACKNOWLEDGED, PENDING, Ledger, read_all
from pspf.testing.simdisk import SimDisk

STORE = "/store"


class Appends:
    """A scenario over one topic. Subclasses say what is done; what must hold is the same for all."""

    partitions = 1
    durability = "sync"
    segment_bytes = 64 << 20
    path = STORE
    prepared = True
    """The topic is there before, with one record, and the partition was closed."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.created = False
        self.closed = False

    def prepare(self) -> SimDisk:
        disk = SimDisk()
        if self.prepared:
            with open_store(self.path, disk=disk) as store:
                self.create(store)
                for partition in range(self.partitions):
                    self.ledger.append(store, "before", partition=partition)
            disk.sync_all()
        return disk

    def create(self, store: Store) -> None:
        config = TopicConfig(
            partitions=self.partitions, durability=self.durability, segment_bytes=self.segment_bytes
        )
        store.create_topic("t", config)
        self.created = True

    def run(self, disk: SimDisk) -> None:
        with open_store(self.path, disk=disk) as store:
            self.work(store)
        self.closed = True

    def work(self, store: Store) -> None:
        raise NotImplementedError

    def observe(self, disk: SimDisk) -> None:
        """What a reader is shown with durability ``sync`` must not be taken back by a power cut (P3)."""
        if self.durability != "sync":
            return
        try:
            with open_store(self.path, create=False, read_only=True, disk=disk) as store:
                found = read_all(store, "t", self.partitions)
        except (errors.NoSuchStore, errors.NoSuchTopic):
            return
        self.ledger.check(found)
        self.ledger.saw(found)

    def knows(self) -> object:
        return self.created, self.closed, self.ledger.knows()

    def recover(self, disk: SimDisk, cut: bool) -> None:
        told: list[str] = []
        may_lose = cut and self.durability != "sync" and not self.closed
        store = open_store(self.path, disk=disk, tell=told.append)
        if store.find_topic("t") is None:
            assert not self.created, "the topic is gone"
            self.create(store)
        # A reader alone, as `pspf cat` behind a crash: it settles what it can.
        self.ledger.check(read_all(store, "t", self.partitions), may_lose)
        for partition in range(self.partitions):
            store.partition_writer(store.topic("t"), partition)
        found = read_all(store, "t", self.partitions)
        self.ledger.check(found, may_lose)
        self.ledger.settle(found, may_lose)
        self.recovered_again(disk)
        for partition in range(self.partitions):
            self.go_on(store, partition)
        found = read_all(store, "t", self.partitions)
        self.ledger.check(found)
        if self.durability == "sync":
            self.ledger.bury(found)
            for state in disk.crash_states(1, 2):
                self.recovers(state, told)
        store.close()
        self.ledger.bury(found)
        self.recovers(disk.copy(), told)
        for state in disk.crash_states(2, 2):
            self.recovers(state, told)
        # Nothing was damaged, so nobody may have been told so.
        assert not [line for line in told if "damage" in line or "missing" in line], told

    def recovered_again(self, disk: SimDisk) -> None:
        """Recovery that runs again, because its process was killed at its end, changes nothing."""
        twin = disk.copy()
        store = open_store(self.path, disk=twin)
        for partition in range(self.partitions):
            store.partition_writer(store.topic("t"), partition)
        before, after = disk.tree(), twin.tree()
        changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
        for name in changed:
            assert name.endswith("/lock"), changed
            # Where zeros begin is a guess, and may be another one; where the log ends is not.
            records = [parse_lock(tree[name] or b"") for tree in (before, after)]
            ends = [record and (record.written_offset, record.written_position) for record in records]
            assert ends[0] == ends[1] is not None

    def recovers(self, disk: SimDisk, told: list[str]) -> None:
        with open_store(self.path, create=False, disk=disk, tell=told.append) as store:
            self.ledger.check(read_all(store, "t", self.partitions))

    def go_on(self, store: Store, partition: int) -> None:
        self.ledger.append(store, "after", partition=partition)


# -- the scenarios


class SingleAppends(Appends):
    """Six durable appends, with zeros written ahead from the second on, then a close."""

    def work(self, store: Store) -> None:
        for _ in range(6):
            self.ledger.append(store)


class Bulk(Appends):
    """Two calls with many records, each split into batches and synced once."""

    def work(self, store: Store) -> None:
        for _ in range(2):
            self.ledger.append(store, count=40, size=1000, piece=17)
        self.ledger.append(store)


class OpenAndClose(Appends):
    """The last writer gives the preallocated zeros back; the next one begins there."""

    def run(self, disk: SimDisk) -> None:
        for _ in range(3):
            with open_store(self.path, disk=disk) as store:
                self.ledger.append(store)
                self.ledger.append(store)


class TwoWriters(Appends):
    """Two processes in turn; one is ended, the other goes on, then the power is cut."""

    first = True

    def run(self, disk: SimDisk) -> None:
        other = disk.process()
        mine, theirs = (open_store(self.path, disk=each) for each in (disk, other))
        turns = [(mine, "mine"), (theirs, "theirs")]
        stopped: BaseException | None = None
        for number in range(8):
            store, name = turns[number % 2 if self.first else 1 - number % 2]
            if name == "mine" and stopped is not None:
                continue
            try:
                self.ledger.append(store, name)
            except Killed as error:
                stopped = error
        if stopped is None:
            mine.close()
        theirs.close()
        if stopped is not None:
            raise stopped


class TwoWritersOtherFirst(TwoWriters):
    first = False


class ClockGoesBack(Appends):
    """The wall clock jumps back by an hour, twice."""

    def work(self, store: Store) -> None:
        for number in range(5):
            if number % 2:
                store.disk.advance(-3_600_000_000_000)  # type: ignore[attr-defined]
            self.ledger.append(store)


class Roll(Appends):
    """Three segments, with the index of each."""

    segment_bytes = 64 << 10

    def work(self, store: Store) -> None:
        for _ in range(8):
            self.ledger.append(store, size=20_000)


class RollInBulk(Appends):
    """The end of a segment inside one call."""

    segment_bytes = 64 << 10

    def work(self, store: Store) -> None:
        self.ledger.append(store, count=100, size=1000, piece=17)
        self.ledger.append(store)


class FirstStore(Appends):
    """Store, topic and partitions from nothing."""

    partitions = 2
    prepared = False

    def run(self, disk: SimDisk) -> None:
        with open_store(self.path, disk=disk) as store:
            self.create(store)
            self.ledger.append(store, partition=0)
            self.ledger.append(store, partition=1)


class FirstStoreDeepDown(FirstStore):
    """The directories above the store are made, too."""

    partitions = 1
    path = "/srv/data/store"

    def run(self, disk: SimDisk) -> None:
        with open_store(self.path, disk=disk) as store:
            self.create(store)
            self.ledger.append(store)


class FirstTopic(FirstStore):
    """Topic and partitions in a store that is there, and leftovers of an earlier attempt."""

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        open_store(self.path, disk=disk).close()
        disk.plant(f"{self.path}/topics/.new-0123/topic.toml", b"half")
        disk.sync_all()
        return disk


class DeleteTopic(Appends):
    """A topic is deleted while another one goes on: it is there as a whole, or gone for good."""

    def __init__(self) -> None:
        super().__init__()
        self.doomed = Ledger("doomed")
        self.deleted: bool | None = False

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        with open_store(self.path, disk=disk) as store:
            store.create_topic("doomed")
            self.doomed.append(store)
        disk.sync_all()
        return disk

    def work(self, store: Store) -> None:
        self.doomed.append(store)
        self.ledger.append(store)
        self.deleted = None  # nobody knows
        store.delete_topic("doomed")
        self.deleted = True
        self.ledger.append(store)

    def knows(self) -> object:
        return super().knows(), self.doomed.knows(), self.deleted

    def recover(self, disk: SimDisk, cut: bool) -> None:
        with open_store(self.path, disk=disk) as store:
            there = "doomed" in store.topics()
            assert not (there and self.deleted), "a deleted topic is back"
            assert there or self.deleted is not False, "a topic is gone that nobody deleted"
            if there:
                self.doomed.check(read_all(store, "doomed", 1))
            elif self.deleted is None:
                # Its name may be back until the removal is synced, but then all of it.
                if "another" not in store.topics():
                    store.create_topic("another")
                self.deleted = True
        super().recover(disk, cut)


class Poisoned(Appends):
    """A sync fails, in one of the ways in which it lies; the partition is healed and the appends go on."""

    size = 60

    def __init__(self, call: str, index: int, lies: str, keep_size: bool = False) -> None:
        super().__init__()
        self.fault = call, index, lies, keep_size

    def run(self, disk: SimDisk) -> None:
        call, index, lies, keep_size = self.fault
        name = ".log" if call == "pwrite" else ""
        disk.fail(call, index, lies=lies, keep_size=keep_size, name=name)
        left = 5
        while left:
            try:
                with open_store(self.path, disk=disk) as store:
                    while left:
                        left -= 1
                        self.one(store)
            except errors.IOFailed:
                if disk.machine.broken:
                    return

    def one(self, store: Store) -> None:
        self.ledger.append(store, size=self.size)

    def recover(self, disk: SimDisk, cut: bool) -> None:
        if disk.machine.broken:  # nothing helps but to mount it again, and then the cache is gone
            disk, cut = next(disk.crash_states(0, 1, "ordered")), True
        super().recover(disk, cut)


class PoisonedEmpty(Poisoned):
    """The very first sync fails: the segment that is healed holds nothing."""

    def prepare(self) -> SimDisk:
        disk = SimDisk()
        with open_store(self.path, disk=disk) as store:
            self.create(store)
            store.partition_writer(store.topic("t"), 0)
        disk.sync_all()
        return disk


class PoisonedRoll(Poisoned):
    """A sync fails around a roll."""

    segment_bytes = 64 << 10
    size = 25_000


class Producer(Appends):
    """An idempotent producer that repeats what it does not know the outcome of."""

    def work(self, store: Store) -> None:
        for _ in range(5):
            self.one(store)

    def one(self, store: Store) -> None:
        self.ledger.begin("p", 0, [b"flight %d" % len(self.ledger.batches)])
        self.produce(store)

    def produce(self, store: Store) -> None:
        """The newest record, and again each one before it, by its sequence."""
        mine = [batch for batch in self.ledger.batches if batch.writer == "p"]
        for sequence, batch in enumerate(mine):
            if batch.state == ABSENT:
                batch.state = PENDING
            row = store.append("t", batch.values[0], partition=0, producer="p", sequence=sequence)
            assert row.duplicate or batch.state != ACKNOWLEDGED, f"appended twice: {batch}"
            if batch.state == ACKNOWLEDGED and row.first >= 0:
                assert row.first == batch.first
            if row.first >= 0:
                self.ledger.acknowledged(batch, row.first)

    def go_on(self, store: Store, partition: int) -> None:
        if any(batch.writer == "p" for batch in self.ledger.batches):
            self.produce(store)
        super().go_on(store, partition)


class ProducerHealed(Producer, Poisoned):
    """A sync fails under a producer: the healed partition must know it, or its repeats are appended twice."""


class ProducerBehindLoss(Producer):
    """An acknowledged record of somebody else is gone from the end: the log goes on behind the gap, and knows
    its producers. The ledger wants every offset, so that what must hold is said here."""

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        with open_store(self.path, disk=disk) as store:
            for _ in range(3):
                self.one(store)
            store.append("t", b"lost", partition=0)
        (name,) = (name for name in disk.tree() if name.endswith(".log"))
        disk.plant(name, (disk.tree()[name] or b"")[:-60])
        return disk

    def work(self, store: Store) -> None:
        for _ in range(3):
            self.one(store)

    def observe(self, disk: SimDisk) -> None:
        """What is behind the gap is looked at afterwards."""

    def recover(self, disk: SimDisk, cut: bool) -> None:
        for _ in range(2):
            with open_store(self.path, disk=disk) as store:
                self.produce(store)
                values = [record.value for record in store.read("t", skip_damaged=True)]
            mine = [batch.values[0] for batch in self.ledger.batches if batch.writer == "p"]
            assert [value for value in values if value in mine] == mine
            assert len(values) == 1 + len(mine)


class Interval(SingleAppends):
    """Acknowledged is written, and synced within the interval: the newest may be lost, in order."""

    durability = "interval"

    def work(self, store: Store) -> None:
        for number in range(6):
            self.ledger.append(store)
            if number == 3:
                store.disk.advance(2_000_000_000)  # type: ignore[attr-defined]


class InCache(SingleAppends):
    """Durability ``os``: survives a killed process."""

    durability = "os"


class MixedLevels(Appends):
    """Appends with ``sync`` in a topic of ``os`` make everything before them durable as well."""

    durability = "os"

    def work(self, store: Store) -> None:
        for number in range(6):
            self.ledger.append(store, durability="sync" if number % 3 == 2 else None)


SCENARIOS: dict[str, Callable[[], Appends]] = {
    "single appends, zeros ahead": SingleAppends,
    "bulk": Bulk,
    "open and close": OpenAndClose,
    "two writers, one killed": TwoWriters,
    "two writers, one killed, the other first": TwoWritersOtherFirst,
    "roll": Roll,
    "roll in bulk": RollInBulk,
    "store, topic and partitions from nothing": FirstStore,
    "store in new directories": FirstStoreDeepDown,
    "topic and partitions from nothing": FirstTopic,
    "a topic is deleted": DeleteTopic,
    "the clock goes back": ClockGoesBack,
    "producer": Producer,
    "producer, a sync fails": lambda: ProducerHealed("fdatasync", 2, "clean"),
    "producer, a sync fails, size kept": lambda: ProducerHealed("fdatasync", 4, "clean", True),
    "producer, acknowledged records are gone": ProducerBehindLoss,
    "durability interval": Interval,
    "durability os": InCache,
    "durability sync in a topic of os": MixedLevels,
    "a sync fails": lambda: Poisoned("fdatasync", 2, ""),
    "a sync fails, pages clean": lambda: Poisoned("fdatasync", 2, "clean"),
    "a sync fails, pages clean, size kept": lambda: Poisoned("fdatasync", 2, "clean", True),
    "the first sync fails": lambda: PoisonedEmpty("fdatasync", 0, "clean"),
    "a sync fails at a roll": lambda: PoisonedRoll("fdatasync", 3, "clean"),
    "the sync of commit fails at a roll": lambda: PoisonedRoll("fdatasync", 4, ""),
    "a journal is aborted": lambda: Poisoned("fdatasync", 2, "aborted"),
    "a write-back fails": lambda: Poisoned("pwrite", 2, "writeback"),
}
