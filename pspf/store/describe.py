"""What a topic holds, told from a few bytes of each partition: nothing here walks a log.

Offsets come from ``commit`` and ``start``, times from the header of the first and of the last batch, bytes
from file sizes. So ``records`` is the distance between two offsets, and an upper bound where compaction, a
producer's jump or a recorded loss left a gap; ``first_ms`` and ``last_ms`` are the times of those two
batches, which in a topic whose timestamps are out of order need not be the least and the greatest.

Where a crash left batches behind the published end and nobody has opened the partition since, it is settled
first, as any reader would; a store that was opened read-only shows the published end.
"""

from pspf import errors
from pspf.format.batch import FLAG_CONTROL, HEADER_BYTES, MAGIC, header_fault, parse_header
from pspf.format.segment import SEGMENT_HEADER_BYTES, base_of, segment_name
from pspf.format.slots import FLAG_DELETED, FLAG_DOUBT, FLAG_POISONED
from pspf.log.index import read_index
from pspf.log.scan import hop
from pspf.store.looking import PartitionView, TopicView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pspf.format.batch import Header
    from pspf.format.slots import Commit
    from pspf.log.files import Segment
    from pspf.model import TopicConfig
    from pspf.store.store import Store

_BLOCK = 512


class _Shown:
    """What prints as its fields."""

    __slots__ = ()

    def __repr__(self) -> str:
        names: "tuple[str, ...]" = type(self).__slots__
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({fields})"


class PartitionInfo(_Shown):
    """One partition of a topic.

    :param start: log start offset. :param end: offset that the next visible record gets.
    :param written: end of what is written, at least ``end``; what lies between is not yet durable. A hint: it
        is read without a lock, and after a crash it can name records that are gone.
    :param records: ``end - start``; with gaps in the offsets, more than there are.
    :param bytes: segment headers, batch headers and bodies; zeros written ahead are left out.
    :param first_ms: least timestamp of the first batch, None when there is none.
    :param last_ms: greatest timestamp of the last batch.
    :param state: ``ok``; ``empty`` (no records now); ``poisoned`` (a sync failed; the next append heals it);
        ``damaged`` (no readable ``commit``, a missing segment, or an end in doubt).
    """

    __slots__ = (
        "bytes",
        "end",
        "first_ms",
        "last_ms",
        "partition",
        "records",
        "segments",
        "start",
        "state",
        "written",
    )

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.start = self.end = self.written = self.records = 0
        self.bytes = self.segments = 0
        self.first_ms: "int | None" = None
        self.last_ms: "int | None" = None
        self.state = "empty"


class TopicInfo(_Shown):
    """A topic and all its partitions, also those that nothing was ever appended to."""

    __slots__ = ("config", "created_ms", "name", "partitions", "topic_id")

    def __init__(
        self,
        name: str,
        topic_id: str,
        config: "TopicConfig",
        created_ms: int,
        partitions: "list[PartitionInfo]",
    ) -> None:
        self.name = name
        self.topic_id = topic_id
        self.config = config
        self.created_ms = created_ms
        self.partitions = partitions


class TopicStats(_Shown):
    """A topic as one row: sums over its partitions, and the earliest and latest of their times."""

    __slots__ = ("bytes", "first_ms", "last_ms", "name", "partitions", "records")

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.partitions = partitions
        self.records = self.bytes = 0
        self.first_ms: "int | None" = None
        self.last_ms: "int | None" = None


class Usage(_Shown):
    """Where the bytes of a partition are.

    :param log_bytes: segments up to their ends. :param index_bytes: what can be rebuilt.
    :param other_bytes: ``commit``, ``lock``, ``start`` and anything else in the directory.
    :param allocated_bytes: what the file system gave to all of it, zeros written ahead included.
    """

    __slots__ = (
        "allocated_bytes",
        "index_bytes",
        "log_bytes",
        "other_bytes",
        "partition",
        "segments",
        "topic",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.log_bytes = self.index_bytes = self.other_bytes = 0
        self.allocated_bytes = self.segments = 0


def describe(store: "Store", name: str) -> TopicInfo:
    """A topic and its partitions.

    :raises pspf.errors.NoSuchTopic: there is none of that name.
    """
    with TopicView(store, name) as view:
        topic = view.topic
        there = set(view.existing())
        infos = [
            _partition_info(store, view, number, True) if number in there else PartitionInfo(number)
            for number in range(topic.config.partitions)
        ]
        return TopicInfo(name, topic.topic_id.hex(), topic.config, topic.created_ms, infos)


def stats(store: "Store", name: str) -> TopicStats:
    """A topic as one row. Costs a few reads for each partition that was ever appended to, nothing for the
    others.

    :raises pspf.errors.Damaged: a partition of it cannot be told: its ``commit`` or a segment is missing or
        damaged.
    """
    with TopicView(store, name) as view:
        row = TopicStats(name, view.topic.config.partitions)
        for number in view.existing():
            info = _partition_info(store, view, number, False)
            row.records += info.records
            row.bytes += info.bytes
            if info.first_ms is not None and (row.first_ms is None or info.first_ms < row.first_ms):
                row.first_ms = info.first_ms
            if info.last_ms is not None and (row.last_ms is None or info.last_ms > row.last_ms):
                row.last_ms = info.last_ms
        return row


def usage(store: "Store", names: "list[str] | str | None" = None) -> "list[Usage]":
    """Bytes on disk, a row for each partition that was ever appended to."""
    if isinstance(names, str):
        names = [names]
    rows = []
    for name in names if names is not None else store.topics():
        try:
            with TopicView(store, name) as view:
                for number in view.existing():
                    partition = view.partition(number)
                    if partition is not None:
                        try:
                            rows.append(_usage(partition))
                        finally:
                            partition.close()
        except errors.NoSuchTopic:
            if names is not None:
                raise  # otherwise it was deleted while we looked
    return rows


def _usage(view: PartitionView) -> Usage:
    row = Usage(view.identity.topic, view.identity.partition)
    commit = view.read_commit()
    for name in view.disk.listdir(view.dir_fd):
        try:
            stat = view.disk.stat_name(name, view.dir_fd)
        except FileNotFoundError:
            continue
        row.allocated_bytes += stat.st_blocks * _BLOCK
        base = base_of(name)
        if base >= 0:
            row.segments += 1
            row.log_bytes += _log_bytes(commit, base, stat.st_size)
        elif name.endswith(".index"):
            row.index_bytes += stat.st_size
        else:
            row.other_bytes += stat.st_size
    return row


def _log_bytes(commit: "Commit | None", base: int, size: int) -> int:
    if commit is not None and base == commit.active_base:
        return min(commit.visible_position, size)
    return size


def _partition_info(store: "Store", topic_view: TopicView, number: int, lenient: bool) -> PartitionInfo:
    """All about one partition. ``lenient``: what cannot be told shows in ``state``, and nothing is raised."""
    info = PartitionInfo(number)
    try:
        view = topic_view.partition(number)
        if view is None:
            return info
        try:
            if not _fill(info, view, False):
                if not store.read_only:
                    # A crash left batches behind the published end. Whoever opens first settles them.
                    reader = store.reader(topic_view.topic.name, number)
                    try:
                        reader.end()
                    finally:
                        reader.close()
                info = PartitionInfo(number)
                _fill(info, view, not lenient)
        finally:
            view.close()
    except errors.Damaged:
        if not lenient:
            raise
        info.state = "damaged"
    except OSError as error:
        raise errors.from_os(
            error, f"cannot read {topic_view.topic.name}/{number}", f"{topic_view.topic.path}/{number}"
        ) from error
    return info


def _fill(info: PartitionInfo, view: PartitionView, strict: bool) -> bool:
    """Fill ``info``; False when the published end is not settled, or not known.

    :param strict: raise when it is not known.
    """
    settled = True
    disk = view.disk
    commit = view.read_commit()
    if commit is None:
        settled = False
        commit = view.read_commit()  # a torn look at a slot that is being written
    bases = []
    for name in disk.listdir(view.dir_fd):
        base = base_of(name)
        if base < 0:
            continue
        bases.append(base)
        try:
            info.bytes += _log_bytes(commit, base, disk.stat_name(name, view.dir_fd).st_size)
        except FileNotFoundError:
            bases.pop()  # retention took it
    bases.sort()
    info.segments = len(bases)
    if commit is None:
        return _unknown(info, view, strict, "its 'commit' file is missing or damaged", "commit")
    start = view.read_start()
    info.start = start.log_start if start is not None else bases[0] if bases else commit.visible_offset
    info.end = info.written = commit.visible_offset
    info.records = max(info.end - info.start, 0)
    if commit.flags & FLAG_DELETED:
        raise errors.TopicDeleted(f"cannot read '{view.identity.topic}'", "the topic was deleted")
    active = view.open_segment(commit.active_base)
    if active is None:
        name = segment_name(commit.active_base)
        return _unknown(info, view, strict, "its active segment is missing", name)
    try:
        if (
            disk.pread(active.fd, len(MAGIC), commit.visible_position) == MAGIC
            and not commit.flags & FLAG_POISONED
        ):
            settled = False
        info.state = _state(info, commit)
        if info.records:
            info.first_ms = _first_time(view, active, commit, info.start, bases)
            info.last_ms = _last_time(view, active, commit, bases)
    finally:
        disk.close(active.fd)
    lock = view.read_lock_hint()
    if lock is not None and lock.generation == commit.generation:
        info.written = max(info.end, lock.written_offset)
    return settled


def _unknown(info: PartitionInfo, view: PartitionView, strict: bool, why: str, name: str) -> bool:
    info.state = "damaged"
    if strict:
        identity = view.identity
        path = f"{identity.path}/{name}"
        raise errors.Damaged(
            f"cannot tell the end of {identity}", why, path, f"pspf verify {identity.topic}", path=path
        )
    return False


def _state(info: PartitionInfo, commit: "Commit") -> str:
    if commit.flags & FLAG_POISONED:
        return "poisoned"
    if commit.flags & FLAG_DOUBT:
        return "damaged"
    return "ok" if info.records else "empty"


def _first_time(
    view: PartitionView, active: "Segment", commit: "Commit", start: int, bases: "list[int]"
) -> "int | None":
    """Least timestamp of the first batch with records from ``start`` on."""
    first = max((b for b in bases if b <= start), default=bases[0])
    for base in bases[bases.index(first) :]:
        for header in _headers(view, active, commit, base, start):
            if header.next_offset > start and _has_records(header):
                return header.base_timestamp
    return None


def _last_time(view: PartitionView, active: "Segment", commit: "Commit", bases: "list[int]") -> "int | None":
    """Greatest timestamp of the last batch with records."""
    if commit.durable_last and commit.durable_offset == commit.visible_offset:
        data = view.disk.pread(active.fd, HEADER_BYTES, commit.durable_last)
        if not header_fault(data, 0, active.segment_id, commit.durable_last):
            header = parse_header(data)
            if _has_records(header):
                return header.max_timestamp
    for base in reversed([b for b in bases if b <= commit.active_base]):
        last = None
        for header in _headers(view, active, commit, base, 1 << 63):
            if _has_records(header):
                last = header
        if last is None and base < commit.visible_offset:  # nothing but control batches behind its last entry
            for header in _headers(view, active, commit, base, 0):
                if _has_records(header):
                    last = header
        if last is not None:
            return last.max_timestamp
    return None


def _has_records(header: "Header") -> bool:
    return header.count > 0 and not header.flags & FLAG_CONTROL


def _headers(
    view: PartitionView, active: "Segment", commit: "Commit", base: int, offset: int
) -> "Iterator[Header]":
    """Headers of a segment from the index entry before ``offset`` on."""
    segment = active if base == active.base else view.open_segment(base)
    if segment is None:
        return
    try:
        end = commit.visible_position if segment is active else view.disk.size(segment.fd)
        at = SEGMENT_HEADER_BYTES
        if offset > base and end > 1 << 20:
            for entry in read_index(view, segment):
                if entry.base_offset > offset or entry.position >= end:
                    break
                at = entry.position
        for _, header in hop(view.disk, segment.fd, segment.segment_id, at, end):
            yield header
    finally:
        if segment is not active:
            view.disk.close(segment.fd)
