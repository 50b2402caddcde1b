"""Check one partition: its small files, each segment and batch, each boundary, the index, and what lies
behind the end.
"""

from pspf import errors
from pspf.format.segment import (
    SEGMENT_HEADER_BYTES,
    base_of,
    parse_segment,
    segment_fault,
    segment_name,
)
from pspf.format.slots import (
    FILE_BYTES,
    FLAG_DELETED,
    FLAG_DOUBT,
    FLAG_POISONED,
    SECOND_SLOT,
    SLOT_BYTES,
    commit_slots_valid,
)
from pspf.log.scan import find_segment_id
from pspf.store.verify import DAMAGE, NOTE, Finding
from pspf.store.verify_batch import index_base
from pspf.store.verify_segment import SegmentWalk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.format.segment import SegmentHeader
    from pspf.format.slots import Commit
    from pspf.store.looking import PartitionView

_SMALL_FILES = ("commit", "lock", "start")


class PartitionCheck:
    """One look at one partition; ``findings`` and the counts are its result.

    ``moved``: the log was cut, healed or rolled under our eyes, so that what looks wrong may not be.
    ``deleted``: the topic went away. ``epoch`` is the greatest leader epoch so far.
    """

    __slots__ = (
        "_advance",
        "_commit",
        "_modes",
        "_owner",
        "_rebuild",
        "_unchecked",
        "batches",
        "bytes",
        "deleted",
        "epoch",
        "findings",
        "moved",
        "records",
        "segments",
        "view",
    )

    def __init__(
        self, view: "PartitionView", owner: int, rebuild: bool, advance: "Callable[[int], None]"
    ) -> None:
        """
        :param owner: uid that all files should have.
        :param rebuild: write a wrong index anew.
        :param advance: told of bytes that are done.
        """
        self.view = view
        self.findings: "list[Finding]" = []
        self.records = self.batches = self.bytes = self.segments = self.epoch = 0
        self.deleted = self.moved = False
        self._owner = owner
        self._rebuild = rebuild
        self._advance = advance
        self._commit: "Commit | None" = None
        self._modes: "list[str]" = []
        self._unchecked = 0

    # -- findings

    def add(
        self,
        kind: str,
        severity: str,
        detail: str,
        path: str,
        first: int = -1,
        behind: int = -1,
        position: int = -1,
        length: int = 0,
    ) -> None:
        """Add a finding about the offsets ``first`` to ``behind`` - 1; one that continues the last is
        joined to it.
        """
        identity = self.view.identity
        if behind <= first:
            first = behind = -1
        last = behind - 1 if first >= 0 else -1
        if self.findings and position > 0:
            f = self.findings[-1]
            if (
                (f.kind, f.severity, f.path) == (kind, severity, path)
                and f.position + f.length == position
                and f.last_offset + 1 == first
            ):
                f.last_offset = last
                f.length += length
                return
        self.findings.append(
            Finding(
                identity.topic,
                identity.partition,
                kind,
                severity,
                detail,
                path,
                first,
                last,
                position,
                length,
            )
        )

    def _path(self, name: str) -> str:
        return f"{self.view.identity.path}/{name}"

    # -- the whole

    def run(self) -> None:
        """Look at everything."""
        view = self.view
        commit = self._commit = self._read_commit()
        if commit is not None and commit.flags & FLAG_DELETED:
            self.deleted = True
            return
        names = sorted(view.disk.listdir(view.dir_fd))
        bases = sorted(b for b in map(base_of, names) if b >= 0)
        self._names(names, set(bases))
        self._lock()
        start, first_base = self._start(bases)
        self._segments(bases, start, first_base)
        self._look_again(bases)

    def _look_again(self, bases: "list[int]") -> None:
        """Whether what we saw can have been the middle of something."""
        before, view = self._commit, self.view
        after = None
        try:
            after = view.read_commit()
        except errors.NewerFormat:
            pass
        if after is not None and after.flags & FLAG_DELETED:
            self.deleted = True
        if before is None or after is None:
            return
        if before.sequence != after.sequence:  # writers are at work: what lies behind the end is theirs
            self.findings = [f for f in self.findings if f.kind != "unsettled"]
        if any(f.severity == DAMAGE for f in self.findings):
            self.moved = (before.generation, before.active_base, before.flags) != (
                after.generation,
                after.active_base,
                after.flags,
            ) or view.segment_bases() != bases

    # -- small files

    def _read_commit(self) -> "Commit | None":
        view = self.view
        for _ in range(2):
            data = view.small("commit")
            try:
                commit = view.read_commit()
            except errors.NewerFormat as error:
                self.add("newer-version", DAMAGE, error.why, self._path("commit"))
                return None
            if commit is not None and data is not None and all(commit_slots_valid(data)):
                break  # otherwise perhaps a torn look at a slot that is being written: once more
        path = self._path("commit")
        if commit is None:
            why = "the file is missing" if data is None else "neither slot checks"
            self.add("commit", DAMAGE, f"{why}; the next open derives it from the log", path, position=0)
            return None
        assert data is not None
        for at, valid in zip((0, SECOND_SLOT), commit_slots_valid(data), strict=True):
            if not valid:
                detail = "one of its two slots is damaged; the other one counts, and it is written anew"
                self.add("commit", NOTE, detail, path, position=at, length=SLOT_BYTES)
        self._padding("commit", data)
        if commit.flags & FLAG_POISONED:
            self.add("poisoned", NOTE, "a sync failed; the next open for writing heals it", path)
        if commit.flags & FLAG_DOUBT:
            detail = (
                f"the end is in doubt: what lies behind offset {commit.visible_offset} may have been"
                " acknowledged; appends wait for pspf repair"
            )
            self.add("doubt", DAMAGE, detail, path)
        return commit

    def _padding(self, name: str, data: bytes) -> None:
        """Between and behind the slots stand zeros; anything else is harmless, and was not written by
        PSPF.
        """
        rest = data[SLOT_BYTES:SECOND_SLOT] + data[SECOND_SLOT + SLOT_BYTES :]
        if any(rest) or len(data) not in (FILE_BYTES, SECOND_SLOT + SLOT_BYTES, SLOT_BYTES):
            self.add(
                name,
                NOTE,
                "bytes outside its two slots are not as they were written; harmless",
                self._path(name),
            )

    def _lock(self) -> None:
        path = self._path("lock")
        try:
            for _ in range(3):  # it is written under a lock that we do not take: a torn look is no fault
                data = self.view.small("lock")
                if data is not None and (self.view.read_lock_hint() is not None or not any(data)):
                    return
        except errors.NewerFormat as error:
            self.add("newer-version", DAMAGE, error.why, path)
            return
        why = "the file is missing" if data is None else "its record does not check"
        self.add("lock", NOTE, f"{why}; the next open for writing makes it anew", path, position=0)

    def _start(self, bases: "list[int]") -> "tuple[int | None, int]":
        """Log start offset, None if unknown, and base of the first segment that is needed."""
        path = self._path("start")
        try:
            data = self.view.small("start")
            start = self.view.read_start()
        except errors.NewerFormat as error:
            self.add("newer-version", DAMAGE, error.why, path)
            return None, 0
        if start is None or data is None:
            why = "the file is missing" if data is None else "neither slot checks"
            detail = f"{why}; the log is taken to begin with its first segment"
            self.add("start", DAMAGE, detail, path, position=0)
            return None, bases[0] if bases else 0
        for at, valid in zip((0, SECOND_SLOT), commit_slots_valid(data), strict=True):
            if not valid:
                detail = "one of its two slots is damaged; the other one counts"
                self.add("start", NOTE, detail, path, position=at, length=SLOT_BYTES)
        self._padding("start", data)
        return start.log_start, start.first_base

    def _names(self, names: "list[str]", bases: "set[int]") -> None:
        """Every name in the directory: ours, left over, or somebody else's; and whose file it is."""
        from stat import S_ISREG

        disk, view = self.view.disk, self.view
        allowed = disk.umask_mode
        for name in names:
            path = self._path(name)
            try:
                stat = disk.stat_name(name, view.dir_fd)
            except FileNotFoundError:
                continue
            ours = name in _SMALL_FILES or base_of(name) >= 0
            index = index_base(name)
            if not S_ISREG(stat.st_mode):
                kind = "unreadable" if ours else "foreign-file"
                self.add(kind, DAMAGE if ours else NOTE, "it is not a regular file", path)
                continue
            if stat.st_uid != self._owner:
                self._modes.append(f"{name} belongs to uid {stat.st_uid}")
            elif stat.st_mode & 0o777 & ~allowed:
                self._modes.append(f"{name} has mode {stat.st_mode & 0o777:04o}")
            if ours:
                continue
            if name.endswith(".tmp"):
                self.add("leftover", NOTE, "an unfinished write; the next one replaces it", path)
            elif index >= 0:
                if index not in bases:
                    self.add("leftover", NOTE, "an index without its segment; harmless", path)
            else:
                self.add("foreign-file", NOTE, "no file of PSPF", path)
        if self._modes:
            more = f", and {len(self._modes) - 1} more" if len(self._modes) > 1 else ""
            detail = f"{self._modes[0]}{more}; they should have mode {allowed:04o} and the owner of the store"
            self.add("owner-mode", NOTE, detail, self.view.identity.path)

    # -- segments

    def _segments(self, bases: "list[int]", start: "int | None", first_base: int) -> None:
        commit = self._commit
        if not bases:
            if commit is None or commit.visible_offset > (start or 0):
                end = commit.visible_offset if commit is not None else -1
                detail = "every segment is missing"
                self.add("segment-missing", DAMAGE, detail, self.view.identity.path, start or 0, end)
            return
        # Retention that was cut short: `start` is already past them.
        while len(bases) > 1 and bases[1] <= first_base:
            self.add("leftover", NOTE, "retention has not removed it yet", self.view.path_of(bases[0]))
            bases = bases[1:]
        walk = Walk(self, bases, start)
        for number in range(len(bases)):
            walk.segment(number)
        if commit is not None and commit.active_base not in bases:
            name = segment_name(commit.active_base)
            first = max(walk.offset, commit.active_base) if commit.active_base > bases[-1] else -1
            detail = "the active segment is missing"
            self.add("segment-missing", DAMAGE, detail, self._path(name), first, commit.visible_offset)
        if self._unchecked:
            detail = (
                f"{self._unchecked} compressed batches: only CRCs were checked (zstandard is not installed)"
            )
            self.add("not-checked", NOTE, detail, self.view.identity.path)

    @property
    def commit(self) -> "Commit | None":
        """The slot that was in force when we came."""
        return self._commit

    def unchecked(self) -> None:
        """A batch whose columns could not be looked at."""
        self._unchecked += 1

    def advance(self, count: int) -> None:
        """``count`` more bytes are done."""
        self._advance(count)

    @property
    def rebuilds(self) -> bool:
        """Whether an index that is wrong may be written anew."""
        return self._rebuild


class Walk:
    """The way through the segments of a partition. ``offset`` is where the log stands behind the last one."""

    __slots__ = ("_bases", "_check", "_view", "offset")

    def __init__(self, check: PartitionCheck, bases: "list[int]", start: "int | None") -> None:
        self._check = check
        self._view = check.view
        self._bases = bases
        self.offset = bases[0]
        first = self._header(bases[0])
        expected = start if start is not None else first.log_start if first is not None else bases[0]
        if bases[0] > expected:
            detail = f"the log begins at offset {expected}, and its first segment is gone"
            check.add("segment-missing", DAMAGE, detail, self._view.path_of(expected), expected, bases[0])

    def _header(self, base: int) -> "SegmentHeader | None":
        """A segment's header, if it is whole and belongs where it stands. Looks ahead; names nothing."""
        block = self._view.small(segment_name(base), SEGMENT_HEADER_BYTES)
        if block is None or segment_fault(block):
            return None
        header = parse_segment(block)
        return None if self._misplaced(header, base) else header

    def _misplaced(self, header: "SegmentHeader", base: int) -> str:
        identity = self._view.identity
        if header.topic_id != identity.topic_id:
            return f"it belongs to the topic with id {header.topic_id.hex()}"
        if header.partition != identity.partition:
            return f"it belongs to partition {header.partition}"
        if header.base != base:
            return f"it is the segment that begins at offset {header.base}"
        return ""

    def _next(self, number: int) -> int:
        """Base of the segment behind this one, -1 if it is the last."""
        return self._bases[number + 1] if number + 1 < len(self._bases) else -1

    def segment(self, number: int) -> None:
        """Check a segment and the boundary behind it."""
        check, view, base = self._check, self._view, self._bases[number]
        name, path = segment_name(base), self._view.path_of(base)
        following = self._next(number)
        try:
            fd = view.disk.open(name, 0, view.dir_fd)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # otherwise retention took it
                check.add("unreadable", DAMAGE, error.strerror or str(error), path, base, following)
            self._skip(following)
            return
        try:
            check.segments += 1
            size = view.disk.size(fd)
            readable, header = self._own_header(fd, base, path, following)
            if not readable:
                check.advance(size)
                self._skip(following)
                return
            id_of = header.segment_id if header is not None else find_segment_id(view.disk, fd, size)
            one = SegmentWalk(check, fd, base, header, id_of, size, path)
            ahead = self._header(following) if following >= 0 else None
            one.walk(ahead, following)
            self._boundary(one, ahead, following)
            self.offset = max(one.offset, following)
        except OSError as error:
            check.add("unreadable", DAMAGE, error.strerror or str(error), path, base, following)
            self._skip(following)
        finally:
            view.disk.close(fd)

    def _skip(self, following: int) -> None:
        if following >= 0:
            self.offset = following
        elif self._check.commit is not None:
            self.offset = max(self.offset, self._check.commit.visible_offset)

    def _own_header(
        self, fd: int, base: int, path: str, following: int
    ) -> "tuple[bool, SegmentHeader | None]":
        """Whether the batches may be read, and the header if it is whole."""
        check = self._check
        block = self._view.disk.pread(fd, SEGMENT_HEADER_BYTES, 0)
        fault = segment_fault(block)
        behind = (
            following if following >= 0 else check.commit.visible_offset if check.commit is not None else -1
        )
        if fault == "newer":
            detail = "it was written by a newer version of PSPF, and is not checked"
            check.add("newer-version", DAMAGE, detail, path, base, behind)
            return False, None
        if fault:
            detail = f"{fault}; its batches name their segment, and are checked all the same"
            check.add("segment-header", DAMAGE, detail, path, position=0, length=SEGMENT_HEADER_BYTES)
            return True, None
        header = parse_segment(block)
        wrong = self._misplaced(header, base)
        if wrong:
            foreign = header.topic_id != self._view.identity.topic_id
            kind = "segment-foreign" if foreign else "segment-misplaced"
            check.add(kind, DAMAGE, wrong, path, base, behind, 0, SEGMENT_HEADER_BYTES)
            return False, None
        starts = list(zip(header.epochs, header.epochs[1:], strict=False))
        if header.epoch < check.epoch or any(a[0] >= b[0] or a[1] > b[1] for a, b in starts):
            detail = f"leader epochs go back: {header.epoch} behind {check.epoch}; began at {header.epochs}"
            check.add("epoch", DAMAGE, detail, path, position=44, length=4)
        check.epoch = max(check.epoch, header.epoch)
        return True, header

    def _boundary(self, one: SegmentWalk, ahead: "SegmentHeader | None", following: int) -> None:
        """What the next segment says of this one."""
        check = self._check
        if following < 0 or ahead is None:
            return
        path = self._view.path_of(following)
        if ahead.prev_base == one.base:
            if one.whole and one.chain is not None and ahead.prev_crc and one.chain != ahead.prev_crc:
                detail = f"it follows another batch than the last one of {segment_name(one.base)}"
                check.add("boundary", DAMAGE, detail, path, position=84, length=4)
            if ahead.base > ahead.prev_end:
                detail = "an earlier recovery found these records damaged or missing, and recorded the gap"
                check.add("gap", DAMAGE, detail, path, ahead.prev_end, ahead.base, 72, 8)
        elif ahead.prev_base > one.base:
            detail = f"segment {segment_name(ahead.prev_base)}, which the next one follows, is not there"
            missing = self._view.path_of(ahead.prev_base)
            check.add("segment-missing", DAMAGE, detail, missing, one.offset, following)
        else:
            detail = f"the next segment, {segment_name(following)}, does not follow this one"
            if one.offset < following:
                check.add(
                    "segment-missing", DAMAGE, detail, self._view.path_of(one.base), one.offset, following
                )
            else:
                check.add("segment-overlap", DAMAGE, detail, self._view.path_of(one.base))
