"""Decide an end in doubt. Nothing else is repaired so far; what else is damaged is named and left as it is.

An end is in doubt when the log cannot say by itself whether bytes behind the last valid batch were
acknowledged: ``commit`` was unreadable and bytes are there, or acknowledged records are gone and the topic
says ``on_damage = stop``. Appends wait then. The decision loses nothing: those bytes go to quarantine and
stay where they are, and the log goes on in a new segment behind the last offset that anything proves to have
been acknowledged. Where records are missing before it, its header records the gap.

It can be killed at any moment: before the new segment has its name the end is still in doubt, behind that the
next opener follows it by name.
"""

from pspf import errors
from pspf.format.segment import REASON_DAMAGE, REASON_HEAL
from pspf.format.slots import (
    FLAG_DELETED,
    FLAG_DOUBT,
    FLAG_POISONED,
    SECOND_SLOT,
    SLOT_BYTES,
    commit_slots_valid,
)
from pspf.log.decision import DOUBT, LOST, decide
from pspf.log.end import lock_record, slot_of
from pspf.log.files import PartitionFiles
from pspf.log.quarantine import quarantine
from pspf.log.recovery import Recovery, follow
from pspf.store.looking import PartitionView, TopicView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.slots import Commit
    from pspf.log.end import End
    from pspf.log.files import Identity
    from pspf.store.store import Store
    from pspf.store.verify import Finding


class RepairReport:
    """What was done, or with ``dry_run`` would be; ``done``: something was changed.

    ``left`` is the damage that this version leaves as it is.
    """

    __slots__ = ("actions", "done", "left")

    def __init__(self) -> None:
        self.actions: "list[str]" = []
        self.done = False
        self.left: "list[Finding]" = []

    def __repr__(self) -> str:
        return f"RepairReport(done={self.done}, actions={self.actions!r}, left={self.left!r})"


def repair(store: "Store", name: str, partition: int, dry_run: bool = False) -> RepairReport:
    """Decide the end of a partition, if it is in doubt.

    :param dry_run: only say what would be done; takes no lock and changes nothing.
    :raises pspf.errors.Busy: writers have the partition open.
    :raises pspf.errors.NoSuchPartition: the topic has fewer.
    """
    if not dry_run:
        store.writable(f"repair {name}/{partition}")
        store.close_writers(name)
    report = RepairReport()
    try:
        with TopicView(store, name) as topic_view:
            if not 0 <= partition < topic_view.topic.config.partitions:
                raise store.no_such_partition(topic_view.topic, partition, reading=True)
            view = topic_view.partition(partition)
            if view is None:
                return report
            try:
                identity = view.identity
                if dry_run:
                    _look(view, report)
                else:
                    dir_fd = store.disk.open_dir(".", view.dir_fd)
                    _repair(PartitionFiles(store.disk, identity, dir_fd, writable=True), report)
                _name_the_rest(store, view, report)
            finally:
                view.close()
    except OSError as error:
        raise errors.from_os(
            error, f"cannot repair {name}/{partition}", f"{store.path}/topics/{name}"
        ) from error
    return report


def _wants_decision(commit: "Commit | None", identity: "Identity") -> bool:
    if commit is None:
        return True
    if commit.flags & FLAG_DELETED:
        raise errors.TopicDeleted(f"cannot repair {identity}", "the topic was deleted")
    return bool(commit.flags & FLAG_DOUBT) and not commit.flags & FLAG_POISONED


def _look(view: PartitionView, report: RepairReport) -> None:
    """What :func:`_repair` would do."""
    commit = view.read_commit()
    if not _wants_decision(commit, view.identity) or not view.segment_bases():
        return
    recovery = Recovery(view, may_cut=False)
    recovery._find_start()
    try:
        recovery._walk()
        end = recovery.end
        known = commit is not None and not commit.flags & FLAG_DOUBT
        decision = decide(recovery.evidence, end.offset, recovery._rest_is_zero(), known)
        size = view.disk.size(end.segment.fd)
        if decision in (DOUBT, LOST):
            offset = max(recovery.evidence, end.offset)
            report.actions += _actions(
                view, end, offset, size - end.position, f"{view.identity.quarantine}/…"
            )
        elif commit is None:
            report.actions.append("'commit' is derived from the log")
    finally:
        view.disk.close(recovery.end.segment.fd)


def _actions(files: PartitionFiles, end: "End", offset: int, behind: int, kept: str) -> "list[str]":
    lines = []
    if offset > end.offset:
        lines.append(f"records {end.offset} to {offset - 1} are damaged or missing; the gap is recorded")
    if behind > 0:
        where = f"copied to {kept}" if kept else "left; they are all zeros"
        path = files.path_of(end.segment)
        lines.append(
            f"{behind} bytes from byte {end.position} of {path}, behind its last valid batch, are {where}"
        )
    lines.append(f"a new segment begins at offset {offset}: {files.path_of(offset)}")
    return lines


def _repair(files: PartitionFiles, report: RepairReport) -> None:
    disk = files.disk
    try:
        disk.lock(files.lock_fd)
        if not disk.lock(files.commit_fd, wait=False):
            raise errors.Busy(
                f"cannot repair {files.identity}",
                "other processes have it open for appending",
                files.identity.path,
                "end them, then run it again",
            )
        commit = files.read_commit()
        if not _wants_decision(commit, files.identity):
            return
        recovery = Recovery(files, may_cut=False)
        end, slot = recovery.run()
        if slot.flags & FLAG_DOUBT:
            try:
                end, slot = _decide(files, recovery, end, slot, report)
            except BaseException:
                disk.close(end.segment.fd)
                raise
        elif commit is None:
            report.actions.append("'commit' was derived from the log")
        if commit is None:
            _clear_rest(files)
        report.done = True
        disk.pwrite(files.lock_fd, lock_record(end, slot.generation, 0, 0).encode(), 0)
        disk.close(end.segment.fd)
    finally:
        files.close()


def _clear_rest(files: PartitionFiles) -> None:
    """What was no slot of ``commit``, and what stands between them, would be called odd for ever."""
    disk, fd = files.disk, files.commit_fd
    slots = commit_slots_valid(disk.pread(fd, SECOND_SLOT + SLOT_BYTES, 0))
    for at, valid in zip((0, SECOND_SLOT), slots, strict=True):
        if not valid:
            disk.pwrite(fd, bytes(SLOT_BYTES), at)
    disk.pwrite(fd, bytes(SECOND_SLOT - SLOT_BYTES), SLOT_BYTES)
    disk.truncate(fd, SECOND_SLOT + SLOT_BYTES)


def _decide(
    files: PartitionFiles, recovery: Recovery, end: "End", slot: "Commit", report: RepairReport
) -> "tuple[End, Commit]":
    """The log goes on behind the evidence."""
    disk = files.disk
    offset = max(recovery.evidence, end.offset)
    size = disk.size(end.segment.fd)
    # A successor of the same name replaces the file, so all of it is kept.
    start = 0 if offset == end.segment.base else end.position
    kept = quarantine(files, end.segment, start, size)
    report.actions += _actions(files, end, offset, size - end.position, kept)
    # If we die behind the rename, or the power goes, the next opener has the same evidence and finds the new
    # segment by its name; before that it is where we were.
    reason = REASON_DAMAGE if offset > end.offset else REASON_HEAL
    # One that takes the name of the old is told apart by its generation, in old slots and open handles.
    generation = slot.generation + (offset == end.segment.base)
    new = follow(files, end, offset, generation, reason)
    slot = slot_of(slot, new, slot.flags & ~FLAG_DOUBT, generation)
    try:
        disk.pwrite(files.commit_fd, slot.encode(), slot.place)
    except BaseException:
        disk.close(new.segment.fd)
        raise
    disk.close(end.segment.fd)
    return new, slot


def _name_the_rest(store: "Store", view: PartitionView, report: RepairReport) -> None:
    """Damage that this version leaves alone."""
    from pspf.store.verify import DAMAGE
    from pspf.store.verify_partition import PartitionCheck

    check = PartitionCheck(view, store.disk.stat(store.topics_fd).st_uid, False, lambda _: None)
    check.run()
    report.left += [
        finding
        for finding in check.findings
        if finding.severity == DAMAGE and finding.kind not in ("doubt", "commit", "gap")
    ]
