"""An input that is appended once however often it is fed: ``pspf append --producer NAME FILE``.

Every batch records how far into the input its partition has come, the CRC of the input up to there, how the
records were cut and placed, and by how many partitions. A second run compares the whole recorded prefix
before it appends anything, leaves out, record by record, what its partition already has, and goes on behind
it.

Partitions that were added meanwhile count for what lies behind the prefix. Batches from there on say so, with
the position: everything before it is in the log, whatever places it.

``--new-source`` begins another input under the same name, one producer epoch higher; positions of older
epochs no longer count.
"""

from pspf import errors
from pspf.disk.real import CREATE
from pspf.format.crc import crc32
from pspf.format.producers import id_of
from pspf.log.others import end_now
from pspf.log.producers import ProducerCheck, known_producer
from pspf.store.topics import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.producers import Producer
    from pspf.store.feed import Feed, FeedOptions
    from pspf.store.intake import Item
    from pspf.store.store import Store
    from pspf.store.topics import Topic

_STRIPE = 20
"""Records without a key go to partitions in stripes of 1 MiB of the input: a function of the position alone.
"""


def placement_of(options: "FeedOptions") -> int:
    """A number from 1 to 65,535 for the options that say where records end and where they go.

    Under others the recorded positions mean nothing: what is there already would be appended again.
    """
    told = (options.separator, options.key_separator, options.key, options.partition)
    return crc32(repr((*told, options.whole, options.json)).encode()) % 0xFFFF + 1


class Resume:
    """What is recorded of one producer's input, and what is therefore still to be appended.

    ``verified_from``: the position from which on the recorded prefix has been compared completely.
    """

    __slots__ = (
        "_after",
        "_anew",
        "_before",
        "_crc",
        "_epoch",
        "_held",
        "_lock_fd",
        "_name",
        "_placement",
        "_positions",
        "_prefixes",
        "_settled",
        "_store",
        "_topic",
        "verified_from",
    )

    def __init__(self, store: "Store", topic: "Topic", name: str, options: "FeedOptions") -> None:
        check_name(name, "producer")
        new_source = options.new_source
        self._name = name
        self._anew = new_source
        self._store = store
        self._topic = topic
        self._placement = placement_of(options)
        self._held: "list[tuple[list[Item], int, int]]" = []
        self._lock_fd = self._take_name(store, topic)
        try:
            known = self._known(topic, new_source)
            self._epoch = max((p.epoch for _, p in known), default=0)
            if new_source and known:
                self._epoch += 1
            current = [(n, p) for n, p in known if p.epoch == self._epoch]
            if any(p.placement not in (0, self._placement) for _, p in current):
                raise errors.ProducerConflict(
                    f"producer '{name}' cannot go on",
                    "its records were cut or placed by other options (-p, -k, -K, -0, -D, -w, --json)",
                    f"topic '{topic.name}'",
                    "use the options of before, or begin anew with: --new-source",
                )
        except BaseException:
            self.close()
            raise
        self._positions = {n: p.source_position for n, p in current}
        self._prefixes = sorted({(p.source_position, p.source_crc) for _, p in current if p.source_position})
        self.verified_from, self._crc = self._prefixes[-1] if self._prefixes else (0, 0)
        floor = max((p.counted_from for _, p in current), default=0)
        counts = [p.partitions for _, p in current if p.partitions and p.counted_from == floor]
        # By how many partitions records are placed, and from where on: in the prefix, and behind it.
        self._before = self._after = (max(counts, default=topic.config.partitions), floor)
        if self._before[0] != topic.config.partitions and options.partition is None:
            self._after = (topic.config.partitions, self.verified_from)
        self._settled = self._after == self._before

    def _known(self, topic: "Topic", new_source: bool) -> "list[tuple[int, Producer]]":
        """What each partition knows of this producer."""
        store, name = self._store, self._name
        known = []
        for partition in range(topic.config.partitions):
            try:
                store.disk.stat_name(str(partition), topic.dir_fd)
            except FileNotFoundError:
                continue
            found = known_producer(store.partition_writer(topic, partition), id_of(name), name, new_source)
            if found is not None:
                known.append((partition, found))
        return known

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

    def only_new(self, items: "list[Item]", feed: "Feed") -> "list[Item]":
        """The records that their partition does not have yet, each with its partition."""
        new = []
        floor = self._before[1]
        for item in items:
            done = floor
            if not item.within(floor):
                began = item.within(self.verified_from)
                place = self._place(item, feed, self._before[0] if began else self._after[0])
                done = self._positions.get(place, 0)
                if not began and item.start < self.verified_from:
                    # It has grown: was it there when it was shorter, and went by the earlier count?
                    done = max(done, self._positions.get(self._place(item, feed, self._before[0]), 0))
                if item.start < done < item.text_end:
                    raise errors.ProducerConflict(
                        f"producer '{self._name}' cannot go on",
                        "the last line had no newline when it was appended, and has grown since",
                        f"byte {item.start} of the input",
                        "append whole lines, or begin anew with: --new-source",
                    )
            if item.start < done:
                feed.report.skipped += 1
            else:
                item.partition = place
                new.append(item)
        return new

    @staticmethod
    def _place(item: "Item", feed: "Feed", count: int) -> int:
        """The partition of a record: by its key, or by where it stands in the input."""
        if feed.options.partition is not None:
            return feed.options.partition
        if item.partition is not None:
            return item.partition
        if item.key is not None:
            return crc32(item.key) % count
        return (item.start >> _STRIPE) % count

    def hold(self, items: "list[Item]", position: int, crc: int) -> None:
        """Keep records back until the prefix has been compared."""
        if items:
            self._held.append((items, position, crc))

    def release(self) -> "list[tuple[list[Item], int, int]]":
        """What was held back. Where another count begins to place, records are divided there."""
        held, self._held = self._held, []
        if self._settled:
            return held
        divided = []
        for items, position, crc in held:
            before = [item for item in items if item.within(self.verified_from)]
            after = [item for item in items if not item.within(self.verified_from)]
            if before:
                divided.append((before, *min((position, crc), (self.verified_from, self._crc))))
            if after:
                divided.append((after, position, crc))
        return divided

    def settle(self, position: int, feed: "Feed") -> None:
        """Before the first batch of another count: it says that everything that lies before is in the log, so
        all of that is made durable, whatever the level and whoever wrote it.
        """
        if self._settled or position <= self.verified_from:
            return
        feed.settle()
        for partition in self._positions:
            writer = self._store.partition_writer(self._topic, partition)
            writer.sync(end_now(writer))
        self._settled = True

    def check(self, partition: int, position: int, crc: int) -> ProducerCheck:
        """What a batch of this input says of itself."""
        count, floor = self._before if position <= self.verified_from else self._after
        self._positions.setdefault(partition, 0)
        return ProducerCheck(
            id_of(self._name),
            self._name,
            None,
            position,
            crc,
            count,
            self._epoch,
            self._anew,
            self._placement,
            floor,
        )
