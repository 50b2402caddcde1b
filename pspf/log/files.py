"""The files of one partition: who it is, its open descriptors, and the small fixed records in them."""

import pspf
from pspf.disk.real import CREATE, READ, WRITE
from pspf.format.segment import SEGMENT_HEADER_BYTES, parse_segment, segment_fault, segment_name
from pspf.format.slots import (
    FILE_BYTES,
    SLOT_BYTES,
    NewerSlot,
    fold,
    newest_commit,
    newest_start,
    parse_lock,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.disk.real import Disk
    from pspf.format.segment import SegmentHeader
    from pspf.format.slots import Commit, LockRecord, Start
    from pspf.model import TopicConfig


class Identity:
    """Which partition of which topic this is, and where it lies.

    ``path`` is the partition's directory, for messages; ``settings`` is the text that each segment header
    repeats.
    """

    __slots__ = ("config", "partition", "path", "quarantine", "settings", "topic", "topic_id")

    def __init__(
        self,
        topic: str,
        topic_id: bytes,
        partition: int,
        config: "TopicConfig",
        path: str,
        settings: bytes = b"",
        quarantine: str = "",
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.config = config
        self.path = path
        self.settings = settings
        self.quarantine = quarantine

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Segment:
    """An open segment file. ``header`` is None when its header block is damaged; the id then came from a
    batch.
    """

    __slots__ = ("base", "fd", "header", "name", "segment_id")

    def __init__(self, fd: int, base: int, header: "SegmentHeader | None", segment_id: int) -> None:
        self.fd = fd
        self.base = base
        self.header = header
        self.segment_id = segment_id
        self.name = segment_name(base)


class PartitionFiles:
    """Open descriptors of a partition: directory, ``commit``, and for writers ``lock``."""

    __slots__ = ("commit_fd", "dir_fd", "disk", "identity", "lock_fd", "topic_fold", "writable")

    def __init__(self, disk: "Disk", identity: Identity, dir_fd: int, writable: bool) -> None:
        self.disk = disk
        self.identity = identity
        self.dir_fd = dir_fd
        self.writable = writable
        self.topic_fold = fold(identity.topic_id)
        self.lock_fd = self.commit_fd = -1
        flags = WRITE if writable else READ
        try:
            if writable:
                self.lock_fd = self._open("lock", flags)
            self.commit_fd = self._open("commit", flags)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, flags: int) -> int:
        try:
            return self.disk.open(name, flags, self.dir_fd)
        except FileNotFoundError:
            from pspf.disk.atomic import leads_to

            if not leads_to(self.disk, self.identity.path, self.dir_fd):
                # A delete takes its files away, and nobody may put them there again.
                what = f"cannot open '{self.identity.topic}'"
                raise pspf.errors.TopicDeleted(what, "the topic was deleted or renamed") from None
            if not self.writable:
                raise pspf.errors.Damaged(
                    f"cannot read {self.identity}",
                    f"its file '{name}' is missing",
                    self.identity.path,
                    f"pspf verify {self.identity.topic}",
                    path=f"{self.identity.path}/{name}",
                ) from None
        # Both files are derived: the log decides. Made anew, empty, which recovery reads as "unknown".
        return self.disk.open(name, CREATE, self.dir_fd)

    def close(self) -> None:
        """Close everything; locks go with it."""
        for fd in (self.lock_fd, self.commit_fd, self.dir_fd):
            if fd >= 0:
                self.disk.close(fd)
        self.lock_fd = self.commit_fd = self.dir_fd = -1

    def newer(self, name: str) -> "pspf.errors.NewerFormat":
        """The error for a file of a later version."""
        return pspf.errors.NewerFormat(
            f"cannot open {self.identity}",
            "it was written by a newer version of PSPF",
            f"{self.identity.path}/{name}",
            "upgrade with: pip install --upgrade pspf-streams",
        )

    def unreadable_commit(self) -> "pspf.errors.Damaged":
        """The error for a ``commit`` that was damaged under a living writer."""
        where = f"{self.identity.path}/commit"
        hint = "end all writers; the next one to open it rebuilds the file"
        what = f"cannot append to {self.identity}"
        return pspf.errors.Damaged(what, "its 'commit' file is damaged", where, hint, path=where)

    def read_commit(self) -> "Commit | None":
        """The newest valid slot of ``commit``."""
        return self.parse_commit(self.disk.pread(self.commit_fd, FILE_BYTES, 0))

    def parse_commit(self, raw: bytes) -> "Commit | None":
        """The newest valid slot in the bytes of a ``commit`` file."""
        try:
            return newest_commit(raw, self.topic_fold)
        except NewerSlot:
            raise self.newer("commit") from None

    def looks_settled(self, commit: "Commit") -> bool:
        """Whether the log ends where ``commit`` says, at the cost of two looks at names."""
        disk, dir_fd = self.disk, self.dir_fd
        if commit.visible_offset != commit.durable_offset:
            return False
        try:
            if disk.stat_name(segment_name(commit.active_base), dir_fd).st_size != commit.durable_position:
                return False
        except FileNotFoundError:
            return False
        at_base = commit.durable_offset == commit.active_base
        return at_base or not disk.exists(segment_name(commit.durable_offset), dir_fd)

    def read_lock(self) -> "tuple[bytes, LockRecord | None]":
        """The record in ``lock``, as bytes and taken apart. Only under the append lock."""
        raw = self.disk.pread(self.lock_fd, SLOT_BYTES, 0)
        try:
            return raw, parse_lock(raw)
        except NewerSlot:
            raise self.newer("lock") from None

    def read_start(self) -> "Start | None":
        """The newest valid slot of ``start``; None when there is no such file or it does not check."""
        try:
            fd = self.disk.open("start", READ, self.dir_fd)
        except FileNotFoundError:
            return None
        try:
            return newest_start(self.disk.pread(fd, FILE_BYTES, 0), self.topic_fold)
        except NewerSlot:
            raise self.newer("start") from None
        finally:
            self.disk.close(fd)

    def path_of(self, segment: "Segment | int") -> str:
        """Path of a segment's file, for messages."""
        base = segment if isinstance(segment, int) else segment.base
        return f"{self.identity.path}/{segment_name(base)}"

    def segment_bases(self) -> "list[int]":
        """Base offsets of all segments, ascending. Lists the directory: never on the way to an append."""
        from pspf.format.segment import base_of

        return sorted(b for b in map(base_of, self.disk.listdir(self.dir_fd)) if b >= 0)

    def open_segment(self, base: int, writable: bool = False) -> "Segment | None":
        """The segment that begins at ``base``; None when there is no such file.

        A damaged header block does not make the batches unreadable: each names its segment.
        """
        try:
            fd = self.disk.open(segment_name(base), WRITE if writable else READ, self.dir_fd)
        except FileNotFoundError:
            return None
        try:
            if writable and self.disk.stat(fd).st_nlink > 1:
                raise pspf.errors.IOFailed(
                    f"cannot append to {self.identity}",
                    "its active segment is shared with a snapshot or another copy (link count above 1)",
                    self.path_of(base),
                    "copy the store with: cp -a --reflink=auto",
                )
            block = self.disk.pread(fd, SEGMENT_HEADER_BYTES, 0)
            fault = segment_fault(block)
            if fault == "newer":
                raise self.newer(segment_name(base))
            if fault:
                from pspf.log.scan import find_segment_id

                return Segment(fd, base, None, find_segment_id(self.disk, fd, self.disk.size(fd)))
            header = parse_segment(block)
            me = self.identity
            if header.base == base and header.topic_id == me.topic_id and header.partition == me.partition:
                return Segment(fd, base, header, header.segment_id)
            return Segment(fd, base, None, 0)  # whole, but another's: none of its batches may pass for ours
        except BaseException:
            self.disk.close(fd)
            raise
