"""Scenarios of several processes that make, rename, enlarge and delete topics which others use."""

from functools import partial

from pspf import errors
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing.ledger import Ledger, Records, read_all
from pspf.testing.simdisk import SimDisk
from pspf.testing.together import Together, Work, new_records


class TwoCreate(Together):
    """Two create the same topic at once: one of them is told that it exists."""

    prepared = False

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        open_store(self.path, disk=disk).close()
        disk.sync_all()
        return disk

    def works(self) -> list[Work]:
        return [partial(self.creates, name=name) for name in ("one", "two")]

    def creates(self, disk: SimDisk, name: str) -> None:
        with self.open(disk) as store:
            try:
                self.create(store)
            except errors.Exists:
                self.created = True
            self.ledger.append(store, name)


class Growing(Together):
    """How many partitions there are is looked up behind each end; those that were added stay."""

    added = 1

    def knows(self) -> object:
        return super().knows(), self.added

    def observe(self, disk: SimDisk) -> None:
        self._count(disk)
        super().observe(disk)

    def recover(self, disk: SimDisk, cut: bool) -> None:
        self._count(disk)
        super().recover(disk, cut)

    def _count(self, disk: SimDisk) -> None:
        with self.open(disk) as store:
            self.partitions = store.partition_count("t")
        assert self.partitions >= self.added, "a partition that was added is gone"


class Renamed(Growing):
    """A topic gets another name while others append to it and add partitions: all of it goes with it."""

    def works(self) -> list[Work]:
        return [self.renames, partial(self.appends_while_there, name="one"), self.follows, self.adds]

    def renames(self, disk: SimDisk) -> None:
        with self.open(disk) as store:
            self.ledger.append(store, "renames")
            store.rename_topic("t", "u")

    def adds(self, disk: SimDisk) -> None:
        with self.open(disk) as store:
            try:
                store.add_partitions("t", 2)
                self.added = 2
                self.ledger.append(store, "adds", partition=1, create=False)
            except errors.NoSuchTopic:
                pass

    def appends_while_there(self, disk: SimDisk, name: str) -> None:
        with self.open(disk) as store:
            for _ in range(4):
                try:
                    self.ledger.append(store, name, create=False)
                except errors.NoSuchTopic:
                    pass

    def observe(self, disk: SimDisk) -> None:
        self._back(disk)
        super().observe(disk)

    def recover(self, disk: SimDisk, cut: bool) -> None:
        self._back(disk)
        super().recover(disk, cut)

    def _back(self, disk: SimDisk) -> None:
        with self.open(disk) as store:
            if "u" in store.topics():
                store.rename_topic("u", "t")


class MorePartitions(Growing):
    """Partitions are added while others append."""

    def works(self) -> list[Work]:
        return [self.adds, partial(self.appends_to_both, name="one"), partial(self.appends, name="two")]

    def adds(self, disk: SimDisk) -> None:
        with self.open(disk) as store:
            self.ledger.append(store, "adds")
            store.add_partitions("t", 2)
            self.added = 2
            self.ledger.append(store, "adds", partition=1)

    def appends_to_both(self, disk: SimDisk, name: str) -> None:
        with self.open(disk) as store:
            for number in range(6):
                store.forget("t")
                try:
                    self.ledger.append(store, name, partition=number % 2)
                except errors.NoSuchPartition:
                    pass


NEVER = 1 << 62


class Doomed(Together):
    """A topic ``x`` beside ``t`` is deleted while others use it, and perhaps made anew.

    What was acknowledged after a delete had ended is there; what was acknowledged before one began that
    succeeded is not; all else may be either.
    """

    def __init__(self, seed: int, size: int = 60) -> None:
        super().__init__(seed)
        self.x = Ledger("x")
        self.size = size
        self.now = 0
        self.deletes: list[list[int]] = []
        self.times: dict[int, tuple[int, int]] = {}

    def prepare(self) -> SimDisk:
        disk = super().prepare()
        with self.open(disk) as store:
            store.create_topic("x", self.config_of_x())
            for _ in range(2):
                self.append_to_x(store, "before")
        disk.sync_all()
        return disk

    def config_of_x(self) -> TopicConfig:
        return TopicConfig(segment_bytes=64 << 10)

    def moment(self) -> int:
        self.now += 1
        return self.now

    def append_to_x(self, store: Store, name: str, create: bool = True) -> None:
        begun = self.moment()
        batch = self.x.append(store, name, size=self.size, create=create)
        self.times[self.x.batches.index(batch)] = begun, self.moment()

    def deletes_x(self, disk: SimDisk, times: int = 1) -> None:
        with self.open(disk) as store:
            for _ in range(times):
                span = [self.moment(), NEVER]
                self.deletes.append(span)
                try:
                    store.delete_topic("x")
                    span[1] = self.moment()
                except errors.NoSuchTopic:
                    self.deletes.remove(span)

    def appends_to_x(self, disk: SimDisk, name: str, create: bool, times: int = 4) -> None:
        with self.open(disk) as store:
            for _ in range(times):
                try:
                    self.append_to_x(store, name, create)
                except errors.NoSuchTopic:
                    pass

    def creates_x(self, disk: SimDisk, times: int = 2) -> None:
        with self.open(disk) as store:
            for _ in range(times):
                try:
                    store.create_topic("x", self.config_of_x())
                except (errors.Exists, errors.NoSuchTopic):
                    pass
                try:
                    self.append_to_x(store, "creates", create=False)
                except errors.NoSuchTopic:
                    pass

    def reads_x(self, disk: SimDisk, times: int = 3) -> None:
        with self.open(disk) as store:
            for _ in range(times):
                try:
                    self.check_x(read_all(store, "x", 1)[0])
                except errors.NoSuchTopic:
                    pass

    def follows_x(self, disk: SimDisk, times: int = 8) -> None:
        with self.open(disk) as store:
            records: Records = []
            try:
                reader = store.reader("x", 0)
                for _ in range(times):
                    records += new_records(reader)
                    self.check_x(records)
            except errors.NoSuchTopic:
                pass

    def check_x(self, records: Records) -> None:
        """One life of the topic: some of the attempts, once each, without a hole."""
        values = [value for _, value in records]
        assert [offset for offset, _ in records] == list(range(len(records))), records
        assert len(set(values)) == len(values), values
        assert set(values) <= {batch.values[0] for batch in self.x.batches}, values

    def knows(self) -> object:
        return super().knows(), self.x.knows(), str(self.deletes), str(self.times)

    def recover(self, disk: SimDisk, cut: bool) -> None:
        with self.open(disk) as store:
            records = read_all(store, "x", 1)[0] if "x" in store.topics() else []
            self.check_x(records)
            found = {value: offset for offset, value in records}
            for number, (begun, acknowledged) in self.times.items():
                batch = self.x.batches[number]
                offset = found.get(batch.values[0])
                assert offset in (None, batch.first), f"moved to {offset}: {batch}"
                if all(ended < begun for _, ended in self.deletes):
                    assert offset is not None, f"lost, and not deleted: {batch}"
                if any(acknowledged < since and ended < NEVER for since, ended in self.deletes):
                    assert offset is None, f"deleted, and there: {batch}"
            self.append_to_x(store, "again")
        super().recover(disk, cut)


class CreatedAndDeleted(Doomed):
    """One creates a topic while another one deletes it, again and again."""

    def works(self) -> list[Work]:
        return [partial(self.deletes_x, times=2), self.creates_x]


class DeletedBesideWriters(Doomed):
    def works(self) -> list[Work]:
        return [self.deletes_x, *(partial(self.appends_to_x, name=name, create=False) for name in ("a", "b"))]


class DeletedAndMadeByAppends(Doomed):
    """Appends make the topic when it is not there."""

    def works(self) -> list[Work]:
        return [partial(self.deletes_x, times=2), partial(self.appends_to_x, name="a", create=True)]


class DeletedBesideReaders(Doomed):
    def works(self) -> list[Work]:
        return [
            self.deletes_x,
            partial(self.appends_to_x, name="a", create=False),
            self.reads_x,
            self.follows_x,
        ]


class NeverUsed(Doomed):
    """As before, with a topic that has no partitions yet."""

    def prepare(self) -> SimDisk:
        disk = Together.prepare(self)
        with self.open(disk) as store:
            store.create_topic("x")
        disk.sync_all()
        return disk

    def works(self) -> list[Work]:
        return [self.deletes_x, partial(self.appends_to_x, name="a", create=False), self.reads_x]
