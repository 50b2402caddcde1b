"""Read one partition forward: whole batches below the visible end, each checked before it is handed out.

A reader does not wait for writers. It goes to the visible end that ``commit`` names, and in a segment that
has a successor up to that one's base offset. What does not check is an error with file, byte and offset, and
the offset behind it, from which reading can go on. The one lock it may take is that of ``settle``, when it
opens a log that looks unfinished, and only if nobody holds it.
"""

import pspf
from pspf.disk import real
from pspf.format.batch import (
    FLAG_CONTROL,
    HEADER_BYTES,
    VERSION,
    Header,
    batch_crc_of,
    header_fault,
    parse_header,
)
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.format.slots import FLAG_DELETED, FLAG_LINKED
from pspf.log.files import Identity, PartitionFiles, Segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import pspf.errors
    from pspf.disk.real import Disk
    from pspf.format.columns import Columns
    from pspf.format.slots import Commit


class RawBatch:
    """One checked batch as it lies on disk."""

    __slots__ = ("body", "header", "header_bytes", "path", "position")

    def __init__(self, header: Header, header_bytes: bytes, body: bytes, position: int, path: str) -> None:
        self.header = header
        self.header_bytes = header_bytes
        self.body = body
        self.position = position
        self.path = path

    def columns(self) -> "Columns":
        """The records, a column at a time."""
        from pspf.format.columns import Columns

        return Columns(self.header, self.body)


class PartitionReader:
    """A position in one partition.

    :param open_dir: gives a descriptor of the partition's directory, or None while nothing was ever appended.
    :param settle: finish what a crash left before reading, where we may write.
    """

    __slots__ = (
        "_bases",
        "_chain",
        "_commit",
        "_disk",
        "_epoch",
        "_files",
        "_forks",
        "_limit",
        "_open_dir",
        "_segment",
        "_settle",
        "identity",
        "next_offset",
        "position",
        "skipped",
        "unsettled",
    )

    def __init__(
        self, disk: "Disk", identity: Identity, open_dir: "Callable[[], int | None]", settle: bool
    ) -> None:
        self._disk = disk
        self.identity = identity
        self._open_dir = open_dir
        self._settle = settle
        self._files: "PartitionFiles | None" = None
        self._segment: "Segment | None" = None
        self._commit: "Commit | None" = None
        self._bases: "list[int]" = []
        self._chain: "int | None" = None
        self._limit: "tuple[int, int] | None" = None
        self._forks = real.forks
        self._epoch = -1  # of the log up to ``next_offset``; -1 until a look at it
        self.next_offset = 0
        self.position = 0
        self.skipped = 0
        self.unsettled = 0

    # -- opening and ends

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.identity.topic

    @property
    def partition(self) -> int:
        """Number of the partition."""
        return self.identity.partition

    @property
    def commit_path(self) -> str:
        """The file that is written at each publish: what a waiter watches."""
        return f"{self.identity.path}/commit"

    def _open(self) -> "PartitionFiles | None":
        if self._forks != real.forks:
            raise pspf.errors.UseAfterFork(
                f"cannot read {self.identity}",
                "it was opened before a fork",
                "",
                "open the store again in the child",
            )
        if self._files is None:
            dir_fd = self._open_dir()
            if dir_fd is None:
                return None
            try:
                if self._settle and not self._disk.exists("commit", dir_fd):
                    from pspf.log.settle import make_anew

                    make_anew(self._disk, self.identity, dir_fd)
            except BaseException:
                self._disk.close(dir_fd)
                raise
            files = PartitionFiles(self._disk, self.identity, dir_fd, writable=False)
            self._files = files
            if self._settle:
                commit = files.read_commit()
                if commit is None or commit.flags & ~FLAG_LINKED or not files.looks_settled(commit):
                    from pspf.log.settle import HELD, settle

                    unsettled = settle(files)
                    self._settle = unsettled == HELD
                    self.unsettled = max(unsettled, 0)
                else:
                    self._settle = False
        return self._files

    def _refresh(self) -> "Commit | None":
        """The slot in force, or None while there is no partition."""
        files = self._open()
        if files is None:
            return None
        commit = files.read_commit()
        if commit is None:
            commit = files.read_commit()  # a torn look at a slot that is being written
        if commit is None:
            raise pspf.errors.Damaged(
                f"cannot read {self.identity}",
                "both slots of 'commit' are damaged",
                self.commit_path,
                f"pspf verify {self.topic}",
                path=self.commit_path,
                position=0,
                offset=0,
            )
        if commit.flags & FLAG_DELETED:
            raise pspf.errors.TopicDeleted(f"cannot read '{self.topic}'", "the topic was deleted")
        before = self._commit
        if before is not None and before.generation != commit.generation:
            self._drop_segment()
            self._bases = []
            cut = min(commit.visible_offset, self.next_offset)
            if self._epoch >= 0:  # the log may have grown past our place again
                from pspf.log.search import newer_epoch

                cut = min(cut, newer_epoch(files, commit, self._epoch, self.next_offset))
            self._commit = commit
            if cut < self.next_offset:
                lost = self.next_offset - cut
                self.next_offset = cut
                raise pspf.errors.RecordsTakenBack(
                    f"records of {self.identity} were taken back",
                    f"{lost} records that had been read were never on stable storage",
                    "",
                    offset=cut,
                )
        self._commit = commit
        return commit

    def end(self) -> int:
        """The visible end: offset behind the last record that may be read now."""
        commit = self._refresh()
        return commit.visible_offset if commit is not None else 0

    def start(self) -> int:
        """The log start offset."""
        files = self._open()
        if files is None:
            return 0
        start = files.read_start()
        if start is not None:
            return start.log_start
        bases = self._list()
        return bases[0] if bases else 0

    def _list(self) -> "list[int]":
        assert self._files is not None
        bases = self._files.segment_bases()
        if self._commit is not None:  # what lies above the active one is not in force
            bases = [b for b in bases if b <= self._commit.active_base]
        self._bases = bases
        return bases

    def _around(self, offset: int) -> "tuple[int, int]":
        """Bases of the segments before or at ``offset``, and of the next one behind it; -1: there is none.

        Segments come at the end and go at the start, so there is never a new one between two that are known:
        only for what lies behind the last of them is the directory listed anew.
        """
        from bisect import bisect_right

        if not self._bases or offset >= self._bases[-1]:
            self._list()
        bases = self._bases
        at = bisect_right(bases, offset)
        return bases[at - 1] if at else -1, bases[at] if at < len(bases) else -1

    def _drop_segment(self) -> None:
        if self._segment is not None:
            self._disk.close(self._segment.fd)
            self._segment = None
        self._chain = None
        self._limit = None

    def close(self) -> None:
        """Let go of all files."""
        if self._forks == real.forks:
            self._drop_segment()
            if self._files is not None:
                self._files.close()
        self._segment = self._files = None

    # -- finding a place

    def seek(self, offset: int) -> None:
        """Go to the batch that holds ``offset``, or the first one behind it.

        An offset below the log start goes to the start, and ``skipped`` says how many are gone; one beyond
        the end waits there.
        """
        self._drop_segment()
        files = self._open()
        self._epoch = -1
        self.next_offset = offset
        if files is None:
            return
        start = self.start()
        if offset < start:
            self.skipped += start - offset
            self.next_offset = start

    def _enter(self, commit: "Commit") -> None:
        """Open the segment that holds ``next_offset`` and go to its batch."""
        files = self._files
        assert files is not None
        offset = self.next_offset
        self._limit = None
        if offset >= commit.active_base:
            base = commit.active_base
        else:
            base = self._around(offset)[0]
            if base < 0:
                self._refresh()  # a topic that is being deleted says so before it loses its files
                if not self._bases:
                    missing = commit.active_base
                    raise self._damaged("the segment is missing", missing, 0, commit.visible_offset)
                first = self._bases[0]
                if self.start() > offset:  # retention took them
                    self.skipped += self.start() - offset
                    self.next_offset = max(self.start(), first)
                    return self._enter(commit)
                raise self._damaged("the segment that held it is missing", offset, 0, first)
        segment = files.open_segment(base)
        if segment is None:
            if base in self._bases and base != commit.active_base and base not in self._list():
                return self._enter(commit)
            self._refresh()
            raise self._damaged("the segment is missing", base, 0, self._behind(base, commit))
        self._segment = segment
        self._chain = None
        self.position = SEGMENT_HEADER_BYTES
        if offset > base:
            self._find(segment, offset, commit)
        elif segment.header is not None:
            self._chain = segment.header.crc

    def _behind(self, base: int, commit: "Commit") -> int:
        following = [b for b in self._bases if b > base]
        return following[0] if following else commit.visible_offset

    def _limits(self, segment: Segment, commit: "Commit") -> "tuple[int, int]":
        """Byte and offset at which reading in this segment ends."""
        if segment.base == commit.active_base:
            return commit.visible_position, commit.visible_offset
        if self._limit is None:
            base = self._around(segment.base)[1]
            if base < 0:
                base = commit.active_base
            self._limit = self._cut_of(segment, base), base
        return self._limit

    def _cut_of(self, segment: Segment, following: int) -> int:
        """Where a segment ends that has a successor: that one says it. Behind a cut there may be bytes that
        never counted.
        """
        assert self._files is not None
        size = self._disk.size(segment.fd)
        successor = self._files.open_segment(following)
        if successor is None:
            return size
        self._disk.close(successor.fd)
        header = successor.header
        return (
            min(header.prev_position, size)
            if header is not None and header.prev_base == segment.base
            else size
        )

    def _find(self, segment: Segment, offset: int, commit: "Commit") -> None:
        from pspf.log.index import read_index
        from pspf.log.scan import hop

        files = self._files
        assert files is not None
        end, end_offset = self._limits(segment, commit)
        if offset >= end_offset and segment.base == commit.active_base:
            self.position = end
            return
        at = SEGMENT_HEADER_BYTES
        if end - at > 512 << 10:
            for entry in read_index(files, segment):
                if entry.base_offset > offset or entry.position >= end:
                    break
                at = entry.position
        for position, header in hop(self._disk, segment.fd, segment.segment_id, at, end):
            self.position = position
            if header.next_offset > offset:
                return
        self.position = end

    def seek_time(self, timestamp_ms: int) -> int:
        """The first offset whose record has a timestamp of at least ``timestamp_ms``; the end if there is
        none.
        """
        from pspf.log.search import first_at_or_after

        commit = self._refresh()
        if commit is None:
            return 0
        assert self._files is not None
        return first_at_or_after(self._files, commit, self.start(), timestamp_ms)

    def seek_back(self, count: int) -> int:
        """The offset of the record that is ``count`` records before the end; the log start if there are
        fewer.
        """
        from pspf.log.search import records_before_end

        commit = self._refresh()
        if commit is None:
            return 0
        assert self._files is not None
        return records_before_end(self._files, commit, self.start(), count)

    # -- reading

    def read(self, max_bytes: int = 1 << 20) -> "list[RawBatch]":
        """The next batches, about ``max_bytes`` of them, at least one; empty at the visible end.

        The first may begin before the offset that was sought. Control batches are left out.

        :raises pspf.errors.Damaged: the next batch cannot be read; ``resume_offset`` is behind it.
        :raises pspf.errors.TopicDeleted: the topic is gone.
        """
        try:
            while True:
                commit = self._commit
                if commit is None or self.next_offset >= commit.visible_offset or self._segment is None:
                    commit = self._refresh()
                if commit is None or self.next_offset >= commit.visible_offset:
                    if commit is not None and self._epoch < 0:
                        self._note_epoch(commit)
                    return []
                if self._segment is None:
                    self._enter(commit)
                batches = self._read_here(commit, max_bytes)
                if batches:
                    return batches
        except OSError as error:
            raise pspf.errors.from_os(error, f"cannot read {self.identity}", self.identity.path) from error

    def _note_epoch(self, commit: "Commit") -> None:
        """Before a wait at an end to which nothing was read: remember its epoch."""
        from pspf.log.search import epoch_at_end

        assert self._files is not None
        if self.next_offset == commit.visible_offset:
            self._epoch = epoch_at_end(self._files, commit)

    def _read_here(self, commit: "Commit", max_bytes: int) -> "list[RawBatch]":
        """Batches from the open segment; none when it was left for the next one."""
        segment = self._segment
        assert segment is not None
        end, end_offset = self._limits(segment, commit)
        start = self.position
        if start >= end:
            return self._leave(segment, commit, end_offset)
        data = self._disk.pread(segment.fd, min(max(max_bytes, HEADER_BYTES), end - start), start)
        path = f"{self.identity.path}/{segment.name}"
        batches: "list[RawBatch]" = []
        at = 0
        while at < len(data) or (at == 0 and not data):
            position = start + at
            fault = ""
            if at and len(data) - at < HEADER_BYTES and position + HEADER_BYTES <= end:
                break  # the rest of it lies behind what was read
            fault = header_fault(data, at, segment.segment_id, position)
            header = None
            if not fault:
                header = parse_header(data, at)
                if len(data) - at < header.size and position + header.size <= end:
                    if at:
                        break
                    data += self._disk.pread(segment.fd, header.size - len(data), start + len(data))
                fault = self._fault_of(header, data, at, end_offset, commit)
            if fault:
                if batches:
                    break  # first what is whole
                if self.next_offset >= end_offset and segment.base != commit.active_base:
                    # All of this segment was read; whatever comes here lies behind its end.
                    self._chain = None
                    return self._leave(segment, commit, end_offset)
                return self._fail(segment, commit, fault, position, header, end, end_offset)
            assert header is not None
            size = header.size
            self._chain = header.crc
            self.next_offset = max(self.next_offset, header.next_offset)
            if not header.flags & FLAG_CONTROL and header.count:
                batches.append(
                    RawBatch(
                        header,
                        data[at : at + HEADER_BYTES],
                        data[at + HEADER_BYTES : at + size],
                        position,
                        path,
                    )
                )
            at += size
            self.position = start + at
            self._epoch = header.epoch
        return batches

    def _fault_of(self, header: Header, data: bytes, at: int, end_offset: int, commit: "Commit") -> str:
        if header.version > VERSION:
            raise pspf.errors.NewerFormat(
                f"cannot read {self.identity}",
                f"offset {header.base_offset} was written by a newer version of PSPF",
                "",
                "upgrade with: pip install --upgrade pspf-streams",
            )
        if self._chain is not None and header.chain != self._chain:
            return "the batch does not follow the one before it (chain mismatch)"
        if len(data) - at < header.size:
            return "the file ends inside a batch"
        if header.span and header.next_offset <= self.next_offset:
            return f"the batch ends at offset {header.next_offset}, before what was read already"
        if header.base_offset > self.next_offset:
            return f"the batch begins at offset {header.base_offset} instead of {self.next_offset}"
        if header.next_offset > end_offset:
            return f"the batch reaches beyond offset {end_offset}, where the segment ends"
        view = memoryview(data)
        if (
            batch_crc_of(view[at : at + HEADER_BYTES], view[at + HEADER_BYTES : at + header.size])
            != header.batch_crc
        ):
            return "batch CRC mismatch"
        return ""

    def _fail(
        self,
        segment: Segment,
        commit: "Commit",
        fault: str,
        position: int,
        header: "Header | None",
        end: int,
        end_offset: int,
    ) -> "list[RawBatch]":
        """Below the visible end nothing may be wrong, unless the end was just moved (repair, a cut): look
        once.
        """
        generation = commit.generation
        if self._settle and self.next_offset >= commit.durable_offset:
            # Who held the append lock when we came may be the one who recovers after a power cut, and what
            # ``commit`` called visible is gone with it: only here the reader waits, for his word on the end.
            from pspf.log.settle import settle

            assert self._files is not None
            self._settle = False
            self.unsettled = settle(self._files, wait=True)
        fresh = self._refresh()
        if fresh is None or fresh.generation != generation:
            self._drop_segment()
            return []
        resume = end_offset
        if header is not None and header.base_offset > self.next_offset:
            resume = min(header.base_offset, end_offset)  # it is whole; what should come before it is missing
        elif header is not None and fault == "batch CRC mismatch" and position + header.size <= end:
            resume = header.next_offset
            if resume <= self.next_offset:  # a control batch: no record is missing, and verify names it
                self.position, self._chain = position + header.size, header.crc
                return []
        else:
            from pspf.log.scan import headers_behind

            following = next(
                headers_behind(
                    self._disk, segment.fd, segment.segment_id, position + 1, end, self.next_offset
                ),
                None,
            )
            if following is not None:
                resume = min(following[1].base_offset, end_offset)
                if resume == self.next_offset < end_offset:  # the same: what comes next is there
                    self.position, self._chain = following[0], None
                    return []
        if self.next_offset >= end_offset:
            # No record is missing here: what is wrong lies behind the last one, and verify names it.
            self._chain = None
            return self._leave(segment, commit, end_offset)
        if resume <= self.next_offset:
            resume = end_offset
        raise self._damaged(fault, segment.base, position, resume)

    def _damaged(self, fault: str, base: int, position: int, resume: int) -> "pspf.errors.Damaged":
        from pspf.format.segment import segment_name

        offset = self.next_offset
        path = f"{self.identity.path}/{segment_name(base)}"
        last = f" to {resume - 1}" if resume - 1 > offset else ""
        return pspf.errors.Damaged(
            f"damage in {self.identity} at offset {offset}{last}",
            fault,
            f"{path} at byte {position}" if position else path,
            f"pspf verify {self.topic}; read on with: -o {resume}, or --skip-damaged",
            path=path,
            position=position,
            offset=offset,
            resume_offset=resume,
        )

    def _leave(self, segment: Segment, commit: "Commit", end_offset: int) -> "list[RawBatch]":
        """The end of a segment that is not the active one: go to its successor, and check the boundary."""
        if segment.base == commit.active_base:
            # The active segment ended before the end that ``commit`` names in it.
            if self.position >= commit.visible_position and self.next_offset < commit.visible_offset:
                return self._fail(
                    segment,
                    commit,
                    "the segment ends before its durable end",
                    self.position,
                    None,
                    0,
                    commit.visible_offset,
                )
            fresh = self._refresh()
            if fresh is not None and fresh.active_base != segment.base:
                self._limit = None
            return []
        following = end_offset
        if self.next_offset < following:
            fault = "the segment ends early: the next one begins at a higher offset"
            return self._fail(segment, commit, fault, self.position, None, 0, following)
        chain, position = self._chain, self.position
        self._drop_segment()
        self.next_offset = max(self.next_offset, following)
        self._enter(commit)
        new = self._segment
        if new is not None and new.header is not None and chain is not None and new.base == following:
            header = new.header
            if header.prev_end != following or (header.prev_crc and header.prev_crc != chain):
                raise self._damaged(
                    f"the segment does not follow the one before it, which ends at byte {position}",
                    new.base,
                    0,
                    self.next_offset,  # no record is missing: who goes on gets them all
                )
        return []
