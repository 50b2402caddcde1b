"""An input that is appended once however often it is fed: ``pspf append --producer NAME FILE``.

Every batch records how far into the input its partition has come, the CRC of the input up to there, and how
many partitions
its records were placed by. A second run compares the whole recorded prefix before it appends anything,
leaves out, record by
record, what its partition already has, and goes on behind it. ``--new-source`` begins another input under
the same
name, one producer epoch higher; positions of older epochs no longer count.
"""

from pspf import errors
from pspf.disk.real import CREATE
from pspf.format.crc import crc32
from pspf.format.producers import id_of
from pspf.log.producers import ProducerCheck, known_producer
from pspf.store.topics import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.store.feed import Feed
    from pspf.store.intake import Item
    from pspf.store.store import Store
    from pspf.store.topics import Topic

_STRIPE = 20
"""Records without a key go to partitions in stripes of 1 MiB of the input: a function of the position alone.
"""


class Resume:
    """What is recorded of one producer's input, and what is therefore still to be appended.

    ``verified_from``: the position from which on the recorded prefix has been compared completely.
    """

    __slots__ = (
        "_epoch",
        "_held",
        "_lock_fd",
        "_name",
        "_partitions",
        "_positions",
        "_prefixes",
        "_store",
        "verified_from",
    )

    def __init__(self, store: "Store", topic: "Topic", name: str, new_source: bool) -> None:
        check_name(name, "producer")
        self._name = name
        self._store = store
        self._held: "list[tuple[list[Item], int, int]]" = []
        self._lock_fd = self._take_name(store, topic)
        known = []
        for partition in range(topic.config.partitions):
            try:
                store.disk.stat_name(str(partition), topic.dir_fd)
            except FileNotFoundError:
                continue
            found = known_producer(store.partition_writer(topic, partition), id_of(name))
            if found is not None:
                known.append((partition, found))
        self._epoch = max((p.epoch for _, p in known), default=0)
        if new_source and known:
            self._epoch += 1
        current = [(n, p) for n, p in known if p.epoch == self._epoch]
        self._positions = {n: p.source_position for n, p in current}
        self._prefixes = sorted({(p.source_position, p.source_crc) for _, p in current if p.source_position})
        self._partitions = max(
            (p.partitions for _, p in current if p.partitions), default=topic.config.partitions
        )
        self.verified_from = self._prefixes[-1][0] if self._prefixes else 0

    def _take_name(self, store: "Store", topic: "Topic") -> int:
        """A kernel lock on the name: two runs of one producer at once would both append the same records."""
        disk = store.disk
        try:
            try:
                disk.mkdir("producers", topic.dir_fd)
            except FileExistsError:
                pass
            dir_fd = disk.open_dir("producers", topic.dir_fd)
            try:
                fd = disk.open(f"{id_of(self._name):016x}.lock", CREATE, dir_fd)
            finally:
                disk.close(dir_fd)
        except OSError as error:
            raise errors.from_os(error, f"cannot append as producer '{self._name}'", topic.path) from error
        if not disk.lock(fd, wait=False):
            from pspf.disk.waiting import holder_of

            holder = holder_of(fd)
            disk.close(fd)
            raise errors.Busy(f"producer '{self._name}' is in use", f"by {holder}", f"topic '{topic.name}'")
        return fd

    def close(self) -> None:
        """Give the name back."""
        if self._lock_fd >= 0:
            self._store.disk.close(self._lock_fd)
            self._lock_fd = -1

    # -- the recorded prefix

    def check_prefix(self, data: bytes, start: int, crc: int) -> None:
        """Compare the recorded positions that lie in ``data``, which begins at ``start`` with CRC ``crc``
        before it.
        """
        while self._prefixes and self._prefixes[0][0] <= start + len(data):
            position, recorded = self._prefixes.pop(0)
            if crc32(data[: position - start], crc) != recorded:
                raise self._other(f"its first {position} bytes are not the ones that were appended before")

    def check_end(self, position: int) -> None:
        """The input ends at ``position``: it must reach as far as what was appended."""
        if self._prefixes:
            raise self._other(
                f"it ends after {position} bytes, and {self._prefixes[-1][0]} were appended before"
            )

    def _other(self, why: str) -> errors.ProducerConflict:
        return errors.ProducerConflict(
            f"producer '{self._name}' was fed another input",
            why,
            "",
            "if that is meant, begin a new one with: --new-source",
        )

    # -- records

    def only_new(self, items: "list[Item]", tail: int, feed: "Feed") -> "list[Item]":
        """The records that their partition does not have yet."""
        new = []
        for item in items:
            done = self._positions.get(self._place(item, feed), 0)
            if item.start < done < item.end and done != item.end - tail:
                raise errors.ProducerConflict(
                    f"producer '{self._name}' cannot go on",
                    "the last line had no newline when it was appended, and has grown since",
                    f"byte {item.start} of the input",
                    "append whole lines, or begin anew with: --new-source",
                )
            if item.end <= done or item.start < done:
                feed.report.skipped += 1
            else:
                new.append(item)
        return new

    def _place(self, item: "Item", feed: "Feed") -> int:
        if feed.options.partition is not None:
            return feed.options.partition
        return self.place(item) if item.partition is None else item.partition

    def place(self, item: "Item") -> int:
        """The partition of a record: by its key, or by where it stands in the input."""
        if self._partitions == 1:
            return 0
        if item.key is not None:
            return crc32(item.key) % self._partitions
        return (item.start >> _STRIPE) % self._partitions

    def hold(self, items: "list[Item]", position: int, crc: int) -> None:
        """Keep records back until the prefix has been compared."""
        if items:
            self._held.append((items, position, crc))

    def release(self) -> "list[tuple[list[Item], int, int]]":
        """What was held back."""
        held, self._held = self._held, []
        return held

    def check(self, partition: int, position: int, crc: int) -> ProducerCheck:
        """What a batch of this input says of itself."""
        return ProducerCheck(
            id_of(self._name), self._name, None, position, crc, self._partitions, self._epoch
        )
