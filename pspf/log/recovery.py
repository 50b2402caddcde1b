"""What the first opener does after a stop: find the end of the log, settle it, publish it.

It costs what lies past the last durable point known, never the size of the log. Each pass can be killed
anywhere and
run again with the same result:

1. the newest slot of ``commit`` names the active segment and a durable position in it; without one, the last
    segment
   is walked from its header;
2. successors are followed by name (a roll or a heal that was renamed and not published);
3. batches behind the durable position are accepted one by one; behind a break, a header in its place that
    proves
   that what is missing was acknowledged makes it damage, and the walk goes on behind it;
4. ``decision.decide`` says what the rest is;
5. a torn rest goes to quarantine and is cut (writers only); valid bytes that nobody vouches for are adopted;
6. the end is published in ``commit`` and ``lock``.
"""

from pspf import errors
from pspf.format.batch import KIND_EPOCH, NO_TABLE, parse_header
from pspf.format.segment import (
    REASON_DAMAGE,
    REASON_HEAL,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    segment_name,
)
from pspf.format.slots import FLAG_DOUBT, FLAG_EPOCH_DUE, FLAG_POISONED, Commit
from pspf.log.decision import CLEAN, DOUBT, LOST, TORN, decide
from pspf.log.end import NOT_KNOWN, End, accept_first, copy_slot, end_of_new, read_last, slot_of
from pspf.log.files import PartitionFiles, Segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.format.batch import Encoded


class Report:
    """What recovery found and did; ``notes`` are lines for people, ``cut`` names the quarantined bytes."""

    __slots__ = ("adopted", "cut", "decision", "notes", "unsettled")

    def __init__(self) -> None:
        self.decision = CLEAN
        self.notes: "list[str]" = []
        self.cut = ""
        self.adopted = 0
        self.unsettled = 0


class Recovery:
    """One run of the passes. The append lock is held, and nobody else has the partition open for writing.

    :param may_cut: a writer may cut a torn rest; a reader leaves it and says so in ``report.unsettled``.
    """

    __slots__ = ("commit", "disk", "end", "evidence", "files", "may_cut", "report")

    def __init__(self, files: PartitionFiles, may_cut: bool) -> None:
        self.files = files
        self.disk = files.disk
        self.may_cut = may_cut
        self.report = Report()
        self.commit = files.read_commit()
        self.evidence = self.commit.durable_offset if self.commit is not None else 0
        self.end: End

    def run(self) -> "tuple[End, Commit]":
        """All passes; the end with its segment open for writing, and the slot that stands in ``commit``."""
        try:
            self._find_start()
            self._walk()
            return self._settle()
        except BaseException:
            if hasattr(self, "end"):
                self.disk.close(self.end.segment.fd)
            raise

    # -- pass 1

    def _find_start(self) -> None:
        files, commit, note = self.files, self.commit, self.report.notes.append
        if commit is not None and commit.flags & FLAG_POISONED:
            # A heal may have got as far as its rename: the name must be on the disk before anybody relies on
            # it.
            self.disk.fsync(files.dir_fd)
        segment = files.open_segment(commit.active_base, writable=True) if commit is not None else None
        if segment is not None:
            assert commit is not None
            self.end = End(segment)
            if segment.header is None:
                note(f"the header of {files.path_of(segment)} is damaged")
            if not read_last(files, segment, commit, self.end):
                # Something below the durable end is damaged. The end is placed behind the last batch that
                # can still
                # be reached; what is missing from there to the durable end is then found to be lost.
                self._hop_to(commit.durable_position)
            return
        bases = files.segment_bases()
        if bases:
            segment = self._newest(bases)
            self.end = End(segment)
            self.end.producers = NOT_KNOWN
            note(
                "the file 'commit' was unreadable and is derived from the log"
                if commit is None
                else f"the segment {files.path_of(commit.active_base)} is missing"
            )
            return
        from pspf.log.create import create_segment, first_header

        start = files.read_start()
        base = max(self.evidence, start.log_start if start is not None else 0)
        if base:
            note(f"all segments below offset {base} are missing")
        self.end = End(create_segment(files, first_header(files.identity, base, self.disk.now_ns())))

    def _newest(self, bases: "list[int]") -> Segment:
        """The last segment whose header is ours; failing that, the last one."""
        for base in [*reversed(bases), bases[-1]]:
            segment = self.files.open_segment(base, writable=True)
            if segment is not None:
                if segment.header is not None or segment.segment_id:
                    return segment
                self.disk.close(segment.fd)
        segment = self.files.open_segment(bases[-1], writable=True)
        assert segment is not None
        return segment

    def _hop_to(self, durable_position: int) -> None:
        from pspf.log.scan import hop

        end, segment = self.end, self.end.segment
        end.offset, end.position, end.last, end.chain = segment.base, SEGMENT_HEADER_BYTES, 0, None
        limit = min(durable_position, self.disk.size(segment.fd))
        for position, header in hop(self.disk, segment.fd, segment.segment_id, SEGMENT_HEADER_BYTES, limit):
            if header.base_offset >= end.offset and position + header.size <= limit:
                end.accept(position, header)

    # -- passes 2 and 3

    def _walk(self) -> None:
        while True:
            if self._follow(self.end.offset) or self._follow(self.evidence):
                continue
            self._scan()
            if self._follow(self.end.offset) or self._follow(self.evidence):
                continue
            if self._rest_is_zero() and self.evidence <= self.end.offset:
                return
            # Something is wrong with the end of this segment. If another one comes behind it, it is no end
            # at all.
            behind = [b for b in self.files.segment_bases() if b > self.end.segment.base]
            if not any(self._follow(base, proven=True) for base in behind):
                return

    def _follow(self, base: int, proven: bool = False) -> bool:
        """Go on in the segment that begins at ``base``, if there is one behind this one.

        :param proven: only if its header is whole, and ours; its name alone proves nothing.
        """
        old = self.end.segment
        if base <= old.base:
            return False
        segment = self.files.open_segment(base, writable=True)
        if segment is None:
            return False
        if proven and segment.header is None:
            self.disk.close(segment.fd)
            return False
        if base != self.end.offset:
            self.report.notes.append(f"records {self.end.offset} to {base - 1} are damaged or missing")
        # Its name may not be on the disk yet: nothing may be acknowledged in a file that a power cut takes
        # away.
        before, self.end = self.end, end_of_new(self.end, segment)
        # It begins with a table unless the one before it knew of no producers, up to its very end. Should
        # that table be damaged, they must not pass for nobody.
        header = segment.header
        follows = header is not None and (header.prev_base, header.prev_position) == (
            old.base,
            before.position,
        )
        if not follows or before.producers != NO_TABLE:
            self.end.producers = NOT_KNOWN
        self.disk.close(old.fd)
        self.disk.fsync(self.files.dir_fd)
        return True

    def _scan(self) -> None:
        from pspf.log.scan import Scanner, headers_behind

        end, segment, disk = self.end, self.end.segment, self.disk
        scanner = Scanner(
            disk, segment.fd, segment.segment_id, end.position, end.offset, end.chain, disk.size(segment.fd)
        )
        surveyed = False
        while True:
            position = scanner.position
            header = scanner.step()
            if header is not None:
                end.accept(position, header)
                continue
            if not scanner.fault:
                return
            proof = None
            for at, found in headers_behind(
                disk, segment.fd, segment.segment_id, position + 1, scanner.size, end.offset
            ):
                if found.durable_end > end.offset:
                    proof = proof or (at, found)
                    self.evidence = max(self.evidence, found.durable_end)
                    if surveyed:
                        break
            surveyed = True  # every header behind the first break is evidence, not only the next one
            if proof is None:
                return
            # A header in its place knew records from here on to be durable: they were acknowledged, and are
            # damaged.
            at, header = proof
            self.report.notes.append(
                f"damage at offset {end.offset} (byte {position} of {self.files.path_of(segment)}):"
                f" {scanner.fault}"
            )
            scanner.restart(at, header.base_offset)
            if scanner.step() is None:
                # Its body is damaged too. Below the evidence it counts as what it is, damage in the middle.
                if header.next_offset > self.evidence:
                    return
                scanner.restart(at + header.size, header.next_offset)
                scanner.chain = header.crc
            end.accept(at, header)

    def _rest_is_zero(self) -> bool:
        from pspf.log.scan import only_zeros

        segment, position = self.end.segment, self.end.position
        size = self.disk.size(segment.fd)
        return size <= position or only_zeros(self.disk, segment.fd, position, size)

    # -- passes 4 to 6

    def _settle(self) -> "tuple[End, Commit]":
        commit, end, report, files = self.commit, self.end, self.report, self.files
        doubt_before = commit is not None and bool(commit.flags & FLAG_DOUBT)
        decision = decide(
            self.evidence, end.offset, self._rest_is_zero(), commit is not None and not doubt_before
        )
        report.decision = decision
        size = self.disk.size(end.segment.fd)
        previous = commit if commit is not None else self._unknown_commit()
        if decision == LOST:
            report.notes.append(f"records {end.offset} to {self.evidence - 1} are damaged or missing")
            if files.identity.config.on_damage == "stop":
                report.decision = DOUBT
                slot = copy_slot(previous, flags=previous.flags | FLAG_DOUBT)
                if commit is None:
                    slot = slot_of(previous, end, slot.flags, previous.generation)
                _write_slot(files, slot, sync=True)
                return end, slot
        if decision in (TORN, DOUBT):
            report.unsettled = size - end.position
        unusable = end.segment.header is None and not end.last
        if decision == TORN and self.may_cut and not unusable:
            self._cut(size)
        self._adopt(previous)
        if decision == LOST or unusable:
            # If we die behind the rename, the next opener has the same evidence, and finds it by its name.
            offset = max(self.evidence, end.offset)
            if offset == end.segment.base:
                from pspf.log.quarantine import quarantine

                # The new one takes the name of the old: handles that have that one open must end.
                previous = copy_slot(previous, previous.sequence)
                previous.generation += 1
                quarantine(files, end.segment, 0, size)
            new = follow(files, end, offset, previous.generation, REASON_DAMAGE)
            self.disk.close(end.segment.fd)
            end = self.end = new
        return end, self._publish(previous, decision)

    def _unknown_commit(self) -> Commit:
        segment = self.end.segment
        generation = segment.header.generation if segment.header else 1
        place = SEGMENT_HEADER_BYTES
        base = segment.base
        return Commit(0, generation, 0, base, base, base, place, place, 0, self.files.topic_fold)

    def _cut(self, size: int) -> None:
        from pspf.log.quarantine import quarantine

        end = self.end
        kept = self.report.cut = quarantine(self.files, end.segment, end.position, size)
        # No sync: the next append's covers it, and if there is none, the next recovery finds the same tail.
        self.disk.truncate(end.segment.fd, end.position)
        self.report.unsettled = 0
        self.report.notes.append(
            f"{size - end.position} bytes behind offset {end.offset} were never acknowledged; moved to {kept}"
        )

    def _adopt(self, previous: Commit) -> None:
        end = self.end
        durable = SEGMENT_HEADER_BYTES
        if previous.active_base == end.segment.base and previous.durable_offset <= end.offset:
            durable = previous.durable_position
        if end.position <= durable:
            return
        from pspf.log.adopt import adopt

        if not adopt(self.disk, self.files.dir_fd, end.segment, durable, end.position):
            raise errors.IOFailed(
                f"cannot open {self.files.identity}",
                "the disk does not keep what is written to it",
                self.files.path_of(end.segment),
            )
        self.report.adopted = end.position - durable

    def _publish(self, previous: Commit, decision: str) -> Commit:
        commit, end, files = self.commit, self.end, self.files
        flags = previous.flags & ~FLAG_DOUBT
        if decision == DOUBT:
            flags |= FLAG_DOUBT
        generation = previous.generation
        header = end.segment.header
        # A segment of a later generation was begun by a heal, also where only ``lock`` had the flag: handles
        # from before must end.
        healed = header is not None and header.generation > generation
        if flags & FLAG_POISONED and end.segment.base != previous.active_base:
            healed = True
        if healed:
            flags &= ~FLAG_POISONED
            generation += 1
        taken_back = commit is not None and commit.visible_offset > end.offset
        if taken_back:
            assert commit is not None
            generation += 1
            flags |= FLAG_EPOCH_DUE
            self.report.notes.append(
                f"records {end.offset} to {commit.visible_offset - 1} had not reached the disk and are gone"
            )
        slot = slot_of(previous, end, flags, generation)
        if commit is None or _differs(commit, slot):
            # One that was there is believed again after a power cut, with the same result; garbage is not.
            _write_slot(files, slot, sync=commit is None)
        else:
            slot = previous
        if slot.flags & FLAG_EPOCH_DUE and self.may_cut and decision != DOUBT:
            start_epoch(files, end, slot)
        return slot


def _differs(a: Commit, b: Commit) -> bool:
    return any(getattr(a, n) != getattr(b, n) for n in Commit.__slots__ if n != "sequence")


def _write_slot(files: PartitionFiles, slot: Commit, sync: bool) -> None:
    files.disk.pwrite(files.commit_fd, slot.encode(), slot.place)
    if sync:
        files.disk.fdatasync(files.commit_fd)


def successor(
    files: PartitionFiles, end: End, base: int, generation: int, reason: int, first: "Encoded | None" = None
) -> Segment:
    """The segment that follows ``end``, beginning at offset ``base``; the old one stays open.

    :param reason: ``REASON_ROLL``, ``REASON_HEAL`` (``end`` is the cut) or ``REASON_DAMAGE``.
    :param first: a control batch to put in front.
    :raises OSError: the new segment is not in force.
    """
    from pspf.log.create import create_segment, random_id

    old = end.segment
    header = SegmentHeader(
        random_id(),
        files.identity.topic_id,
        files.identity.partition,
        base,
        generation=generation,
        epoch=end.epoch,
        created_ns=max(files.disk.now_ns(), end.append_ns + 1),
        prev_base=old.base,
        prev_end=end.offset,
        prev_position=end.position,
        prev_crc=end.chain or 0,
        log_start=old.header.log_start if old.header else 0,
        reason=reason,
        epochs=_epochs(files, end, base),
        settings=files.identity.settings,
    )
    if old.base == base and old.header is not None:
        # The old one holds nothing that counts: the new one takes its name, and its predecessor.
        header.prev_base, header.prev_end = old.header.prev_base, old.header.prev_end
        header.prev_position, header.prev_crc = old.header.prev_position, old.header.prev_crc
    return create_segment(files, header, first)


def _epochs(files: PartitionFiles, end: End, base: int) -> "list[tuple[int, int]]":
    """The leader epochs up to ``base``, and where each began; inside the segment that is looked for."""
    old = end.segment
    epochs = list(old.header.epochs) if old.header else []
    if not epochs and old.header:
        epochs.append((old.header.epoch, old.base))
    if not epochs or epochs[-1][0] < end.epoch:
        from pspf.log.scan import hop

        for _, found in hop(files.disk, old.fd, old.segment_id, SEGMENT_HEADER_BYTES, end.position):
            if not epochs or found.epoch > epochs[-1][0]:
                epochs.append((found.epoch, found.base_offset))
    if not epochs or epochs[-1][0] < end.epoch:
        epochs.append((end.epoch, base))  # of a heal: it begins with the new segment
    return epochs


def follow(files: PartitionFiles, end: End, base: int, generation: int, reason: int) -> End:
    """As :func:`successor`, with the table of what is known of producers at ``end``: repeats must be
    recognised behind a heal, and behind damage. The end of the new segment.
    """
    from pspf.log.producers import table_at

    first = table_at(files, end)
    segment = successor(files, end, base, generation, reason, first)
    new = end_of_new(end, segment)
    try:
        if first is not None:
            accept_first(files, new)
    except BaseException:
        files.disk.close(segment.fd)
        raise
    return new


def start_epoch(files: PartitionFiles, end: End, slot: Commit) -> None:
    """Begin a new leader epoch behind a cut of visible records, so that positions of the old one can be told
    apart.

    If we die, or the power goes, before both are on the disk, the flag EPOCH_DUE is still there, or the cut
    is found again: one more follows.
    """
    from pspf.format.batch import FLAG_CONTROL, Encoded

    end.epoch += 1
    body = end.offset.to_bytes(8, "little")
    batch = Encoded([body], 0, 0, FLAG_CONTROL, KIND_EPOCH)
    end.append_ns = max(files.disk.now_ns(), end.append_ns + 1)
    back = NO_TABLE if end.producers == NO_TABLE else end.position - end.producers
    sealed = batch.seal(
        end.offset,
        end.epoch,
        end.append_ns,
        end.segment.segment_id,
        end.position,
        end.chain or 0,
        end.offset,
        back,
    )
    files.disk.pwritev(end.segment.fd, [sealed, body], end.position)
    files.disk.fdatasync(end.segment.fd)  # who opens the segment later cannot vouch for it
    end.accept(end.position, parse_header(sealed))
    slot.sequence += 1
    slot.flags &= ~FLAG_EPOCH_DUE
    slot.durable_position = slot.visible_position = end.position
    slot.durable_last = end.last
    _write_slot(files, slot, sync=False)


def heal(
    files: PartitionFiles, commit: Commit, tell: "Callable[[str], None] | None" = None
) -> "tuple[End, Commit]":
    """Open a poisoned partition again: a new segment begins at the durable end; the old one is not written
    any more.

    The append lock is held; others may still have the partition open, and fail by the generation. Nothing
    behind the
    durable end was acknowledged with ``sync``. If we die before the rename, the partition is still poisoned;
    behind it,
    the successor is found at the durable end, and the old tail is ignored by the cut that its header names.
    """
    disk = files.disk
    old = files.open_segment(commit.active_base)
    if old is None:
        raise errors.Damaged(
            f"cannot open {files.identity}",
            "the active segment is missing",
            files.path_of(commit.active_base),
            f"pspf verify {files.identity.topic}",
            path=files.path_of(commit.active_base),
        )
    end = End(old)
    try:
        read_last(files, old, commit, end)
        if is_healed(files, commit, old):
            # An earlier heal was published in the cache only, or not at all: what was appended since lies in
            # the successor.
            return Recovery(files, may_cut=True).run()
        from pspf.log.quarantine import quarantine

        # The durable end is on the disk before a successor is named after it: recovery must not walk past
        # the cut.
        disk.fdatasync(files.commit_fd)
        kept = quarantine(files, old, end.position, disk.size(old.fd))
        if kept and tell is not None:
            tell(f"{files.identity}: a sync had failed; what was not acknowledged was moved to {kept}")
        if commit.visible_offset > commit.durable_offset:
            end.epoch += 1
        end = follow(files, end, commit.durable_offset, commit.generation + 1, REASON_HEAL)
    finally:
        disk.close(old.fd)
    slot = slot_of(commit, end, commit.flags & ~FLAG_POISONED, commit.generation + 1)
    try:
        # No sync: whoever finds the poisoned slot again finds the successor by its name (see is_healed).
        _write_slot(files, slot, sync=False)
    except BaseException:
        disk.close(end.segment.fd)
        raise
    return end, slot


def is_healed(files: PartitionFiles, commit: Commit, active: "Segment | None" = None) -> bool:
    """Whether a poisoned ``commit`` is older than the heal: the segment that follows the cut is there
    already.
    """
    if commit.durable_offset > commit.active_base:
        return files.disk.exists(segment_name(commit.durable_offset), files.dir_fd)
    segment = active or files.open_segment(commit.active_base)
    if segment is None:
        return False
    healed = segment.header is not None and segment.header.generation > commit.generation
    if active is None:
        files.disk.close(segment.fd)
    return healed
