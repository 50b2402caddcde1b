"""What scenarios of several processes at once have in common, and what readers among them must be shown."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

from pspf import errors
from pspf.log.reader import PartitionReader
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing.ledger import ACKNOWLEDGED, PENDING, Ledger, Records, read_all
from pspf.testing.scenarios import Appends
from pspf.testing.schedule import Schedule
from pspf.testing.simdisk import SimDisk

Work = Callable[[SimDisk], None]


def quiet(line: str) -> None:
    """Where nothing was damaged, nobody is told so."""
    assert "damage" not in line and "missing" not in line, line


class Together(Appends):
    """Several processes at once; subclasses say what each of them does."""

    stay = 0.6
    turning = True
    """Each of the processes is the one that is ended for some seeds."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def works(self) -> list[Work]:
        raise NotImplementedError

    def run(self, disk: SimDisk) -> None:
        schedule = Schedule(self.seed, self.stay)
        works = self.works()
        first = self.seed % len(works) if self.turning else 0
        for number, work in enumerate(works[first:] + works[:first]):
            process = disk if number == 0 else disk.process()
            schedule.add(process, partial(work, process))
        schedule.run()

    def open(self, disk: SimDisk) -> Store:
        return open_store(self.path, disk=disk, tell=quiet)

    def appends(self, disk: SimDisk, name: str = "w", count: int = 3, size: int = 60) -> None:
        with self.open(disk) as store:
            for _ in range(count):
                self.ledger.append(store, name, size=size)

    def goes_on(self, disk: SimDisk, name: str, count: int = 4, size: int = 60) -> None:
        """Appends, and opens the store again when a sync has failed."""
        while count:
            try:
                with self.open(disk) as store:
                    while count:
                        count -= 1
                        self.ledger.append(store, name, size=size)
            except errors.IOFailed:
                if disk.machine.broken:
                    return

    def reads(self, disk: SimDisk, times: int = 2) -> None:
        with self.open(disk) as store:
            for _ in range(times):
                with Look(self.ledger) as look:
                    look.found = read_all(store, "t", self.partitions)

    def follows(self, disk: SimDisk, times: int = 12) -> None:
        """One reader is kept open: it is shown each record once, in order, and only what stays."""
        with self.open(disk) as store:
            if store.find_topic("t") is None:
                return
            reader = store.reader("t", 0)
            records: Records = []
            for _ in range(times):
                with Look(self.ledger) as look:
                    records += new_records(reader)
                    look.found = {0: records}
                    look.whole = False
            reader.close()


class Look:
    """What a reader saw while others were at work: what was acknowledged before must be there, what is
    acknowledged meanwhile may be.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.found: dict[int, Records] = {}
        self.whole = True

    def __enter__(self) -> "Look":
        self.before = [batch.state for batch in self.ledger.batches]
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        known = deepcopy(self.ledger)
        for number, batch in enumerate(known.batches):
            if not self.whole or number >= len(self.before) or batch.state != self.before[number]:
                batch.state = PENDING if batch.state == ACKNOWLEDGED else batch.state
        known.check(self.found)
        self.ledger.saw(self.found)


def new_records(reader: PartitionReader) -> Records:
    """What a reader that is kept open is shown now."""
    records: Records = []
    while batches := reader.read():
        for batch in batches:
            header = batch.header
            offsets = range(header.base_offset, header.next_offset)
            records += zip(offsets, batch.columns().values(), strict=True)
    return records
