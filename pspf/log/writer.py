"""Append to one partition: the commit protocol of many processes without a daemon.

What happens to an append, and what a stop after each step leaves, is told step by step in ARCHITECTURE.md; the numbers in the
comments below are the ones used there.

- The ``lock`` file's lock is the append lock; its record is the written end.
- A shared lock on ``commit`` is *presence*: whoever gets it exclusively knows that nobody has had the partition open
  without a break, and recovers.
- Data is synced after the append lock is released, so that the kernel groups the syncs of all writers.
- Nothing is acknowledged before the durable end in ``commit`` covers it.
"""

from _thread import allocate_lock

from pspf import errors
from pspf.disk import real
from pspf.format.batch import HEADER_BYTES, NO_TABLE, Encoded
from pspf.format.slots import (
    FLAG_DELETED,
    FLAG_DOUBT,
    FLAG_LINKED,
    FLAG_POISONED,
    Commit,
    LockRecord,
)
from pspf.log.files import Identity, PartitionFiles, Segment
from pspf.log.recovery import End, Recovery, accept_first, heal, lock_record, slot_of, successor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.disk.real import Disk
    from pspf.log.producers import ProducerCheck, ProducerState
    from pspf.log.recovery import Report

UNSYNCED_LIMIT = 4 << 20
"""Bytes that may be written and not synced, at any durability: bounds what recovery reads."""

COMMIT_SYNC_BYTES = 16 << 20
SMALL_APPEND = 64 << 10
INDEX_CHUNK = 256 << 10


class Placed:
    """Where a batch was written: offsets ``first``..``last``, and ``end``, the offset that must become durable."""

    __slots__ = ("duplicate", "end", "first", "last", "unsynced")

    def __init__(self, first: int, last: int, end: int, unsynced: int, duplicate: bool = False) -> None:
        self.first = first
        self.last = last
        self.end = end
        self.unsynced = unsynced
        self.duplicate = duplicate


class PartitionWriter:
    """One process's handle for appending to a partition. Threads may share it.

    :param tell: gets one line for each thing that recovery did.
    :raises pspf.errors.Error: the partition cannot be opened; recovery says why.
    """

    __slots__ = (
        "_appended",
        "_closed",
        "_commit_unsynced",
        "_doubt",
        "_durable",
        "_durable_position",
        "_end",
        "_forks",
        "_generation",
        "_gone",
        "_mutex",
        "_poisoned",
        "_producers",
        "_raw",
        "_record",
        "_sync_mutex",
        "_visible_at_write",
        "_zeros_off",
        "durability",
        "files",
        "identity",
        "report",
    )

    def __init__(
        self,
        disk: "Disk",
        identity: Identity,
        dir_fd: int,
        durability: "str | None" = None,
        tell: "Callable[[str], None] | None" = None,
    ) -> None:
        self.identity = identity
        self.durability = durability or identity.config.durability
        self._visible_at_write = identity.config.durability != "sync"
        self._mutex = allocate_lock()
        self._sync_mutex = allocate_lock()
        self._forks = real.forks
        self._closed = self._gone = False
        self._poisoned = ""
        self._appended = 0
        self._commit_unsynced = 0
        self._zeros_off = not identity.config.preallocate or self.durability != "sync"
        self._producers: "ProducerState | None" = None
        self.report: "Report | None" = None
        self.files = PartitionFiles(disk, identity, dir_fd, writable=True)
        try:
            self._open(tell)
        except OSError as error:
            self.files.close()
            raise errors.from_os(error, f"cannot open {identity} for appending", identity.path) from error
        except BaseException:
            self.files.close()
            raise

    # -- opening

    def _open(self, tell: "Callable[[str], None] | None") -> None:
        files, disk = self.files, self.files.disk
        disk.lock(files.lock_fd)  # O2
        try:
            alone = disk.lock(files.commit_fd, wait=False)
            commit = files.read_commit()
            raw, record = files.read_lock()
            if commit is not None and commit.flags & FLAG_DELETED:
                raise self._deleted()
            if commit is not None and commit.flags & FLAG_POISONED:
                end, commit = heal(files, commit, tell)
                record = None
            elif alone:
                recovery = Recovery(files, may_cut=True)
                try:
                    end, commit = recovery.run()
                finally:
                    self.report = recovery.report
                    if tell is not None:
                        for note in recovery.report.notes:
                            tell(f"{self.identity}: {note}")
                if record is not None and (
                    record.zeros_end < end.position or record.active_base != end.segment.base
                ):
                    record.zeros_end = 0
            else:
                if commit is None or record is None:
                    raise errors.Damaged(
                        f"cannot open {self.identity} for appending",
                        "its 'commit' or 'lock' file is damaged while other writers have it open",
                        self.identity.path,
                        "end the other writers; the next one to open it rebuilds them",
                        path=self.identity.path,
                    )
                end = self._end_of(record)
            self._end = end
            self._take_commit(commit)
            zeros = record.zeros_end if record is not None else 0
            fresh = lock_record(end, commit.generation, commit.flags & FLAG_DELETED, zeros)
            if not alone and record is not None:
                fresh = record
            self._record = fresh
            self._raw = fresh.encode()
            if self._raw != raw:
                disk.pwrite(files.lock_fd, self._raw, 0)
            if not disk.lock_shared(files.commit_fd):
                raise errors.IOFailed(f"cannot open {self.identity}", "its presence lock is held exclusively")
            if not commit.flags & FLAG_LINKED:
                self._link(commit)
            if commit.durable_offset < fresh.written_offset:  # O3
                self._adopt(commit)
        finally:
            disk.unlock(files.lock_fd)

    def _link(self, commit: Commit) -> None:
        """Sync the directories above the partition once, and say so: its name must not vanish in a power cut."""
        disk = self.files.disk
        path = self.identity.path
        for _ in range(3):  # the topic, topics/, the store
            path = path.rpartition("/")[0] or "."
            fd = disk.open_dir(path, follow=True)
            try:
                disk.fsync(fd)
            finally:
                disk.close(fd)
        self._publish_slot(slot_of(commit, self._end, commit.flags | FLAG_LINKED, commit.generation), commit)

    def _publish_slot(self, slot: Commit, old: Commit) -> None:
        """Write ``slot``, keeping what ``old`` says about the ends."""
        for name in ("active_base", "visible_offset", "durable_offset", "visible_position", "durable_position", "durable_last"):
            setattr(slot, name, getattr(old, name))
        self.files.disk.pwrite(self.files.commit_fd, slot.encode(), slot.place)

    def _take_commit(self, commit: Commit) -> None:
        self._durable = commit.durable_offset
        self._durable_position = commit.durable_position
        self._generation = commit.generation
        self._doubt = bool(commit.flags & FLAG_DOUBT)

    def _end_of(self, record: LockRecord) -> End:
        """The end that a ``lock`` record names; opens its segment."""
        segment = self.files.open_segment(record.active_base, writable=True)
        if segment is None:
            raise errors.Damaged(
                f"cannot append to {self.identity}",
                "the active segment is missing",
                self.files.path_of(record.active_base),
                f"pspf verify {self.identity.topic}",
                path=self.files.path_of(record.active_base),
            )
        end = End(segment)
        self._move(end, record)
        return end

    @staticmethod
    def _move(end: End, record: LockRecord) -> None:
        end.offset = record.written_offset
        end.position = record.written_position
        end.last = record.last_position
        end.chain = record.last_crc
        end.append_ns = record.last_append_ns
        end.producers = record.producers_position

    def _adopt(self, commit: Commit) -> None:
        """Vouch for what others wrote and nobody has synced; the append lock is held."""
        from pspf.log.adopt import adopt
        from pspf.format.segment import SEGMENT_HEADER_BYTES

        end = self._end
        start = commit.durable_position if commit.active_base == end.segment.base else SEGMENT_HEADER_BYTES
        try:
            kept = adopt(self.files.disk, self.files.dir_fd, end.segment, start, end.position)
        except OSError as error:
            self._poison_locked(error.strerror or "sync failed")
            raise self._poisoned_error() from error
        if not kept:
            self._poison_locked("the disk does not keep what is written to it")
            raise self._poisoned_error()
        current = self.files.read_commit()
        if current is not None and current.durable_offset < end.offset:
            slot = slot_of(current, end, current.flags, current.generation)
            self.files.disk.pwrite(self.files.commit_fd, slot.encode(), slot.place)
            self._take_commit(slot)

    # -- state

    def _usable(self) -> None:
        if self._forks != real.forks:
            raise errors.UseAfterFork(
                f"cannot use {self.identity}", "it was opened before a fork", "", "open the store again in the child"
            )
        if self._closed:
            raise errors.Closed(f"cannot append to {self.identity}", "it is closed")
        if self._poisoned:
            raise self._poisoned_error()

    def _poisoned_error(self) -> errors.Poisoned:
        return errors.Poisoned(
            f"cannot append to {self.identity}",
            f"a sync failed ({self._poisoned}); what was not acknowledged may be lost",
            self.identity.path,
            "look at the disk (dmesg), then run the command again: the next open heals the partition",
        )

    def _deleted(self) -> errors.TopicDeleted:
        self._gone = True
        return errors.TopicDeleted(f"cannot append to '{self.identity.topic}'", "the topic was deleted")

    @property
    def broken(self) -> bool:
        """Whether this handle can never append again; a new one can be opened."""
        return bool(self._poisoned) or self._closed or self._doubt or self._gone

    @property
    def next_offset(self) -> int:
        """The written end as this handle last saw it."""
        return self._end.offset

    def _refresh(self, raw: bytes) -> None:
        """Somebody else wrote the ``lock`` record since we last did: take it over."""
        from pspf.format.slots import parse_lock

        record = parse_lock(raw)
        if record is None:
            raise errors.Damaged(
                f"cannot append to {self.identity}",
                "its 'lock' record is damaged",
                f"{self.identity.path}/lock",
                "end all writers; the next one to open it rebuilds the record",
                path=f"{self.identity.path}/lock",
            )
        if record.flags & FLAG_DELETED:
            raise self._deleted()
        if record.flags & FLAG_POISONED or record.generation != self._generation:
            self._poisoned = "seen by another process"
            raise self._poisoned_error()
        if record.active_base != self._end.segment.base:
            old = self._end
            new = self._end_of(record)
            new.epoch = max(new.epoch, old.epoch)
            self._end = new
            self.files.disk.close(old.segment.fd)
            self._record, self._raw = record, raw
            # This descriptor was opened now: it vouches for nothing that others wrote before.
            commit = self.files.read_commit()
            if commit is not None:
                self._take_commit(commit)
                if commit.durable_offset < record.written_offset:
                    self._adopt(commit)
            return
        self._move(self._end, record)
        self._record, self._raw = record, raw

    # -- appending

    def write(
        self,
        encoded: Encoded,
        expect_offset: "int | None" = None,
        producer: "ProducerCheck | None" = None,
    ) -> Placed:
        """Steps 2 to 7: put a batch behind the written end. It is neither durable nor acknowledged yet.

        :param expect_offset: the offset that the batch must get.
        :raises pspf.errors.OffsetConflict: it would get another one.
        :raises pspf.errors.IOFailed: the operating system refused; the log is as it was.
        """
        disk, files = self.files.disk, self.files
        with self._mutex:  # 2: the mutex first, since two threads on one descriptor do not exclude each other
            self._usable()
            try:
                disk.lock(files.lock_fd)
                try:
                    raw = disk.pread(files.lock_fd, 64, 0)  # 3
                    if raw != self._raw:
                        self._refresh(raw)
                    if self._doubt:
                        raise errors.Damaged(
                            f"cannot append to {self.identity}",
                            "the end of the log is in doubt: bytes behind it may have been acknowledged",
                            self.identity.path,
                            f"pspf repair {self.identity.topic} -p {self.identity.partition}",
                            path=files.path_of(self._end.segment),
                            offset=self._end.offset,
                        )
                    return self._write_locked(encoded, expect_offset, producer)
                finally:
                    disk.unlock(files.lock_fd)  # 7
            except OSError as error:
                raise errors.from_os(
                    error, f"cannot append to {self.identity}", files.path_of(self._end.segment)
                ) from error

    def _write_locked(
        self, encoded: Encoded, expect_offset: "int | None", producer: "ProducerCheck | None"
    ) -> Placed:
        disk, end = self.files.disk, self._end
        if producer is not None or self._producers is not None or end.producers != NO_TABLE:  # 4
            from pspf.log.producers import before_append

            known = before_append(self, encoded, producer)
            if known is not None:
                return known
            end = self._end
        if expect_offset is not None and expect_offset != end.offset:
            raise errors.OffsetConflict(
                f"cannot append to {self.identity} at offset {expect_offset}", f"its end is {end.offset}"
            )
        size = HEADER_BYTES + encoded.body_length
        if end.position + size > self.identity.config.segment_bytes and end.last:
            self._roll()
            end = self._end
        self._put(encoded, size)
        first = end.offset - encoded.span
        return Placed(first, end.offset - 1, end.offset, end.position - self._durable_position)

    def _put(self, encoded: Encoded, size: int) -> None:
        """Steps 5 and 6 for one batch that fits."""
        disk, end, record = self.files.disk, self._end, self._record
        segment = end.segment
        position, first = end.position, end.offset
        append_ns = max(disk.now_ns(), end.append_ns + 1)
        back = NO_TABLE if end.producers == NO_TABLE else position - end.producers
        if back == NO_TABLE and encoded.producer_id >= 0:
            back = 0
        header = encoded.seal(
            first, end.epoch, append_ns, segment.segment_id, position, end.chain or 0, self._durable, back
        )
        after = position + size
        zeros_end = record.zeros_end
        parts = [header, *encoded.parts]
        if after > zeros_end and not self._zeros_off and self._appended and size < SMALL_APPEND:
            room = max(64 << 10, min(1 << 20, after >> 4))
            zeros_end = min(after + room, max(self.identity.config.segment_bytes, after))
            parts.append(bytes(zeros_end - after))
        try:
            if size < SMALL_APPEND and len(parts) < 4:
                disk.pwrite(segment.fd, b"".join(parts), position)
            else:
                disk.pwritev(segment.fd, parts, position)
        except OSError:
            self._give_back(segment, max(position, record.zeros_end))
            if zeros_end == record.zeros_end:
                raise
            self._zeros_off = True  # no room for zeros ahead: without them it may still fit
            return self._put(encoded, size)
        index_due = position // INDEX_CHUNK != end.last // INDEX_CHUNK or not end.last
        unsynced = record.oldest_unsynced_ms
        if self._visible_at_write and not unsynced:
            unsynced = append_ns // 1_000_000
        fresh = LockRecord(
            record.generation,
            record.flags,
            segment.base,
            first + encoded.span,
            after,
            int.from_bytes(header[4:8], "little"),
            zeros_end,
            position,
            end.producers if back == NO_TABLE else position - back,
            unsynced,
            append_ns,
        )
        raw = fresh.encode()
        disk.pwrite(self.files.lock_fd, raw, 0)  # 6
        self._record, self._raw = fresh, raw
        self._move(end, fresh)
        self._appended += 1
        if self._visible_at_write:
            self._publish_visible()
        if index_due:
            from pspf.log.index import note_batch

            note_batch(self.files, segment, position, first, append_ns)

    def _give_back(self, segment: Segment, size: int) -> None:
        """After a write that failed half-way: give its blocks back, as far as the disk lets us."""
        try:
            if self.files.disk.size(segment.fd) > size:
                self.files.disk.truncate(segment.fd, size)
        except OSError:
            pass

    def _publish_visible(self) -> None:
        """Durability ``interval`` and ``os``: readers may go to the written end at once."""
        files, end = self.files, self._end
        commit = files.read_commit()
        if commit is None or commit.generation != self._generation:
            return
        slot = Commit(
            commit.sequence + 1,
            commit.generation,
            commit.flags,
            commit.active_base,
            end.offset,
            commit.durable_offset,
            end.position,
            commit.durable_position,
            commit.durable_last,
            commit.topic_fold,
        )
        files.disk.pwrite(files.commit_fd, slot.encode(), slot.place)

    def _roll(self) -> None:
        """Begin a new segment at the written end; the append lock is held.

        The old segment is whole and durable before the new one has a name. A failure up to the rename leaves the log
        as it was; a failed sync of what holds records, or of the new name, poisons.
        """
        from pspf.format.segment import REASON_ROLL
        from pspf.log.producers import table_batch

        disk, files, end = self.files.disk, self.files, self._end
        try:
            disk.fdatasync(end.segment.fd)
            if disk.size(end.segment.fd) > end.position:
                disk.truncate(end.segment.fd, end.position)
                disk.fsync(end.segment.fd)
        except OSError as error:
            self._poison_locked(error.strerror or "sync failed")
            raise self._poisoned_error() from error
        commit = self._current_commit()
        slot = slot_of(commit, end, commit.flags, commit.generation)
        disk.pwrite(files.commit_fd, slot.encode(), slot.place)
        first = table_batch(self) if end.producers != NO_TABLE else None
        try:
            segment = successor(files, end, end.offset, self._generation, REASON_ROLL, first)
        except OSError as error:
            if files.open_segment(end.offset) is None:
                raise  # no new name: the log is as it was
            self._poison_locked(error.strerror or "sync failed")
            raise self._poisoned_error() from error
        new = End(segment)
        new.append_ns = max(new.append_ns, end.append_ns)
        new.epoch = max(new.epoch, end.epoch)
        self._end = new
        if first is not None:
            from pspf.log.recovery import accept_first

            accept_first(files, new)
        slot = slot_of(slot, new, slot.flags, slot.generation)
        disk.pwrite(files.commit_fd, slot.encode(), slot.place)
        try:
            disk.fdatasync(files.commit_fd)
        except OSError as error:
            self._poison_locked(error.strerror or "sync failed")
            raise self._poisoned_error() from error
        self._take_commit(slot)
        self._commit_unsynced = 0
        fresh = lock_record(new, self._generation, self._record.flags, 0)
        self._raw = fresh.encode()
        self._record = fresh
        disk.pwrite(files.lock_fd, self._raw, 0)

    def _current_commit(self) -> Commit:
        """The slot in force; the append lock is held."""
        commit = self.files.read_commit()
        if commit is None:
            raise errors.Damaged(
                f"cannot append to {self.identity}",
                "its 'commit' file is damaged",
                f"{self.identity.path}/commit",
                "end all writers; the next one to open it rebuilds the file",
                path=f"{self.identity.path}/commit",
            )
        if commit.flags & FLAG_DELETED:
            raise self._deleted()
        if commit.flags & FLAG_POISONED or commit.generation != self._generation:
            self._poisoned = "seen by another process"
            raise self._poisoned_error()
        return commit

    # -- durability

    def sync(self, offset: int) -> None:
        """Steps 8 to 10: return when everything below ``offset`` is on stable storage and published.

        :raises pspf.errors.Poisoned: the sync failed; nothing that was not acknowledged before is.
        :raises pspf.errors.OutcomeUnknown: durable, perhaps, but not published: not acknowledged.
        """
        with self._sync_mutex:  # one thread at a time syncs a descriptor
            if self._durable >= offset and not self._poisoned:
                return
            with self._mutex:
                self._usable()
                end, fd = self._end, self._end.segment.fd
                target = (end.segment.base, end.offset, end.position, end.last)
            try:
                self.files.disk.fdatasync(fd)  # 8, without the append lock
            except OSError as error:
                with self._mutex:
                    self._poison(error.strerror or "sync failed")
                raise self._poisoned_error() from error
            with self._mutex:
                self._publish_durable(target)  # 9

    def _publish_durable(self, target: "tuple[int, int, int, int]") -> None:
        files, disk = self.files, self.files.disk
        base, offset, position, last = target
        try:
            disk.lock(files.lock_fd)
            try:
                commit = self._current_commit()
                if commit.durable_offset < offset:
                    if commit.active_base != base:
                        raise errors.OutcomeUnknown(
                            f"cannot acknowledge records of {self.identity}", "the active segment changed under a sync"
                        )
                    visible = commit.visible_offset > offset
                    slot = Commit(
                        commit.sequence + 1,
                        commit.generation,
                        commit.flags,
                        base,
                        commit.visible_offset if visible else offset,
                        offset,
                        commit.visible_position if visible else position,
                        position,
                        last,
                        commit.topic_fold,
                    )
                    disk.pwrite(files.commit_fd, slot.encode(), slot.place)
                    self._commit_unsynced += position - commit.durable_position
                    commit = slot
                    if self._visible_at_write and self._record.oldest_unsynced_ms:
                        self._clear_unsynced(offset)
                self._durable, self._durable_position = commit.durable_offset, commit.durable_position
            finally:
                disk.unlock(files.lock_fd)
            if self._commit_unsynced >= COMMIT_SYNC_BYTES:
                self._commit_unsynced = 0
                disk.fdatasync(files.commit_fd)
        except OSError as error:
            raise errors.OutcomeUnknown(
                f"cannot acknowledge records of {self.identity}",
                f"they are on disk, but saying so failed: {error.strerror}",
                f"{self.identity.path}/commit",
                f"look at the end of the topic with: pspf tail {self.identity.topic}",
            ) from error

    def _clear_unsynced(self, offset: int) -> None:
        raw, record = self.files.read_lock()
        if record is not None and record.written_offset == offset and record.oldest_unsynced_ms:
            record.oldest_unsynced_ms = 0
            fresh = record.encode()
            self.files.disk.pwrite(self.files.lock_fd, fresh, 0)
            if raw == self._raw:
                self._record, self._raw = record, fresh

    def acknowledge(self, placed: Placed) -> None:
        """Make a batch as durable as this writer's level says, and bound what is left unsynced."""
        if self.durability == "sync":
            self.sync(placed.end)
        elif placed.unsynced > UNSYNCED_LIMIT or self._overdue():
            self.sync(placed.end)

    def _overdue(self) -> bool:
        """Durability ``interval``: the oldest unsynced append, by whomever, is older than the interval."""
        oldest = self._record.oldest_unsynced_ms
        if self.durability != "interval" or not oldest:
            return False
        return self.files.disk.now_ns() // 1_000_000 - oldest >= self.identity.config.interval_ms

    def append(
        self,
        encoded: Encoded,
        expect_offset: "int | None" = None,
        producer: "ProducerCheck | None" = None,
    ) -> Placed:
        """Write a batch and return when it is acknowledged."""
        placed = self.write(encoded, expect_offset, producer)
        self.acknowledge(placed)
        return placed

    # -- poison

    def _poison(self, why: str) -> None:
        """Flag the partition before the error is reported, so that nobody acknowledges what a failed sync lost."""
        self._poisoned = why
        try:
            self.files.disk.lock(self.files.lock_fd)
            try:
                self._poison_locked(why)
            finally:
                self.files.disk.unlock(self.files.lock_fd)
        except OSError:
            pass  # this handle is dead all the same; the others meet the same disk

    def _poison_locked(self, why: str) -> None:
        self._poisoned = why
        files = self.files
        try:
            _, record = files.read_lock()
            if record is not None and record.generation == self._generation:
                record.flags |= FLAG_POISONED
                files.disk.pwrite(files.lock_fd, record.encode(), 0)
            commit = files.read_commit()
            if commit is not None and commit.generation == self._generation:
                slot = slot_of(commit, self._end, commit.flags | FLAG_POISONED, commit.generation)
                self._publish_slot(slot, commit)
        except (OSError, errors.Error):
            pass

    # -- closing

    def close(self) -> None:
        """Make everything durable and let go. The last writer gives the preallocated space back."""
        if self._closed:
            return
        if self._forks != real.forks:
            self._closed = True
            return
        try:
            if not self._poisoned and self._durable < self._end.offset and self._appended:
                self.sync(self._end.offset)
        finally:
            with self._mutex:
                self._closed = True
                try:
                    if not self._poisoned and self._record.zeros_end > self._end.position:
                        self._trim_zeros()
                finally:
                    self.files.disk.close(self._end.segment.fd)
                    self.files.close()

    def _trim_zeros(self) -> None:
        files, disk = self.files, self.files.disk
        disk.lock(files.lock_fd)
        try:
            disk.unlock(files.commit_fd)
            if not disk.lock(files.commit_fd, wait=False):
                return  # others go on
            raw, record = files.read_lock()
            if record is None or raw != self._raw or self._durable < record.written_offset:
                return
            disk.truncate(self._end.segment.fd, record.written_position)
            record.zeros_end = 0
            disk.pwrite(files.lock_fd, record.encode(), 0)
            if self._commit_unsynced >= UNSYNCED_LIMIT:
                disk.fdatasync(files.commit_fd)
        except OSError:
            pass  # zeros at the end harm nobody
        finally:
            disk.unlock(files.lock_fd)



