"""Append to one partition: the commit protocol of many processes without a daemon.

ARCHITECTURE.md tells what happens to an append, and what a stop after each step leaves; the numbers in the
comments are the ones used there.

- The ``lock`` file's lock is the append lock; its record is the written end.
- A shared lock on ``commit`` is *presence*: whoever gets it exclusively knows that nobody has had the
  partition open without a break, and recovers.
- Data is synced after the append lock is released, so that the kernel groups the syncs of all writers.
- Nothing is acknowledged before the durable end in ``commit`` covers it.
"""

from _thread import allocate_lock

import pspf
from pspf.disk import real
from pspf.format.batch import HEADER_BYTES, KIND_TABLE, NO_TABLE, Encoded
from pspf.format.slots import (
    FILE_BYTES,
    FLAG_DELETED,
    FLAG_DOUBT,
    FLAG_LINKED,
    FLAG_POISONED,
    FLAG_ROLLING,
    SLOT_BYTES,
    Commit,
    parse_lock,
)
from pspf.log.end import Placed, copy_slot, lock_record, settled_end
from pspf.log.files import Identity, PartitionFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import pspf.errors
    from pspf.disk.real import Disk
    from pspf.log.index import Due
    from pspf.log.producers import ProducerCheck, ProducerState
    from pspf.log.recovery import Report

UNSYNCED_LIMIT = 4 << 20  # bytes that may be written and not synced, at any durability
COMMIT_SYNC_BYTES, CLOSE_SYNC_BYTES = 16 << 20, 4 << 20
"""``commit`` is synced after so many bytes, and at a close. Both bound what recovery reads."""
SMALL_APPEND = 64 << 10
INDEX_CHUNK = 256 << 10
NO_TIME = -(1 << 63)


def load_what_failures_need() -> None:
    """Behind the first append, which has to start fast: later, the disk may be what fails, or descriptors."""
    import pspf.errors
    import pspf.log.others  # noqa: F401


class PartitionWriter:
    """One process's handle for appending to a partition. Threads may share it.

    :param tell: gets one line for each thing that recovery did.
    :raises pspf.errors.Error: the partition cannot be opened; recovery says why.
    """

    __slots__ = (
        "_appended", "_closed", "_commit", "_commit_raw", "_doubt", "_forks", "_gone", "_index_due",
        "_max_time", "_retired", "_sync_mutex", "_syncing", "_visible_at_write", "_zeros_off",
        "commit_unsynced", "durability", "durable_end", "durable_position", "end", "files", "generation",
        "identity", "mutex", "poisoned", "producers", "raw", "record", "report", "timed",
    )  # fmt: skip

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
        self.mutex = allocate_lock()
        self._sync_mutex = allocate_lock()
        self._forks = real.forks
        self._closed = self._gone = self._syncing = self.timed = False
        self._retired: "list[int]" = []
        self._index_due: "list[Due]" = []
        self._max_time: "int | None" = None  # greatest timestamp since the last index entry; None: not known
        self._commit_raw = b""
        self._commit: "Commit | None" = None
        self.poisoned = ""
        self._appended = self.commit_unsynced = 0
        self._zeros_off = not identity.config.preallocate or self.durability != "sync"
        self.producers: "ProducerState | None" = None
        self.report: "Report | None" = None
        try:
            self.files = PartitionFiles(disk, identity, dir_fd, writable=True)
        except OSError as error:
            what = f"cannot open {identity} for appending"
            raise pspf.errors.from_os(error, what, identity.path) from error
        try:
            self._open(tell)
        except BaseException as error:
            if hasattr(self, "end"):
                disk.close(self.end.segment.fd)
            self.files.close()
            if isinstance(error, OSError):
                what = f"cannot open {identity} for appending"
                raise pspf.errors.from_os(error, what, identity.path) from error
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
                raise self.deleted()
            zeros_end = 0
            flags = commit.flags if commit is not None else 0
            if record is not None and not alone:
                flags |= record.flags  # flagged by one who died before it reached ``commit``
            if commit is not None and flags & FLAG_POISONED:
                from pspf.log.recovery import heal

                self.end, commit = heal(files, commit, tell)
                fresh = lock_record(self.end, commit.generation, 0, 0)
            elif alone or commit is None or record is None or record.flags & FLAG_ROLLING:
                # Nobody else has it open, or one who died left a record that does not name the end.
                settled = settled_end(files, commit) if alone else None
                if settled is not None and commit is not None:
                    self.end = settled
                else:
                    from pspf.log.others import recover_end

                    self.end, commit = recover_end(self, tell)
                    if alone and self.report is not None and self.report.decision == "clean":
                        zeros_end = disk.size(self.end.segment.fd)
                fresh = lock_record(self.end, commit.generation, 0, zeros_end)
            else:
                from pspf.log.others import end_of

                self.end = end_of(self, record)
                fresh = record
            self.take_commit(commit)
            self.record = fresh
            self.raw = fresh.encode()
            if self.raw != raw:
                disk.pwrite(files.lock_fd, self.raw, 0)
            if not disk.lock_shared(files.commit_fd):
                raise pspf.errors.IOFailed(
                    f"cannot open {self.identity}", "its presence lock is held exclusively"
                )
            if not commit.flags & FLAG_LINKED:
                from pspf.log.others import link

                link(self, commit)
            if commit.durable_offset < fresh.written_offset:  # O3
                from pspf.log.others import adopt_others

                adopt_others(self, commit)
        finally:
            disk.unlock(files.lock_fd)

    def take_commit(self, commit: Commit) -> None:
        self.durable_end = commit.durable_offset
        self.durable_position = commit.durable_position
        self.generation = commit.generation
        self._doubt = bool(commit.flags & FLAG_DOUBT)

    def usable(self) -> None:
        if self._forks != real.forks:
            raise pspf.errors.UseAfterFork(
                f"cannot use {self.identity}",
                "it was opened before a fork",
                "",
                "open the store again in the child",
            )
        if self._closed:
            raise pspf.errors.Closed(f"cannot append to {self.identity}", "it is closed")
        if self.poisoned:
            raise self.poisoned_error()

    def poisoned_error(self) -> "pspf.errors.Poisoned":
        return pspf.errors.Poisoned(
            f"cannot append to {self.identity}",
            f"a sync failed ({self.poisoned}); what was not acknowledged may be lost",
            self.identity.path,
            "look at the disk (dmesg), then run the command again: the next open heals the partition",
        )

    def deleted(self) -> "pspf.errors.TopicDeleted":
        self._gone = True
        return pspf.errors.TopicDeleted(f"cannot append to '{self.identity.topic}'", "the topic was deleted")

    @property
    def broken(self) -> bool:
        """Whether this handle can never append again; a new one can be opened."""
        return bool(self.poisoned) or self._closed or self._doubt or self._gone

    @property
    def next_offset(self) -> int:
        """The written end as this handle last saw it."""
        return self.end.offset

    def refresh(self, raw: bytes) -> None:
        """Somebody else wrote the ``lock`` record since we last did: take it over."""
        self._max_time = None
        record = parse_lock(raw)
        if (
            record is not None
            and not record.flags
            and record.generation == self.generation
            and record.active_base == self.end.segment.base
        ):
            self.end.take(record)
            self.record, self.raw = record, raw
            return
        from pspf.log.others import refresh

        refresh(self, raw)

    def retire(self, fd: int) -> None:
        """Close a segment that is left behind, once no thread syncs it any more."""
        if self._syncing:
            self._retired.append(fd)
        else:
            self.files.disk.close(fd)

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
        self.usable()
        if self._appended == 1:
            load_what_failures_need()
        placed = self._write(encoded, expect_offset, producer)
        if placed is None:  # it has to roll, and another thread syncs the segment: after that
            with self._sync_mutex:
                placed = self._write(encoded, expect_offset, producer)
        assert placed is not None
        return placed

    def _write(
        self, encoded: Encoded, expect_offset: "int | None", producer: "ProducerCheck | None"
    ) -> "Placed | None":
        disk, files = self.files.disk, self.files
        with self.mutex:  # 2: the mutex first, since two threads on one descriptor do not exclude each other
            self.usable()
            try:
                try:  # an interrupt may come just behind the lock
                    disk.lock(files.lock_fd)
                    raw = disk.pread(files.lock_fd, 64, 0)  # 3
                    if raw != self.raw:
                        self.refresh(raw)
                    if self._doubt:
                        raise pspf.errors.Damaged(
                            f"cannot append to {self.identity}",
                            "the end of the log is in doubt: bytes behind it may have been acknowledged",
                            self.identity.path,
                            f"pspf repair {self.identity.topic} -p {self.identity.partition}",
                            path=files.path_of(self.end.segment),
                            offset=self.end.offset,
                        )
                    placed = self._write_locked(encoded, expect_offset, producer)
                finally:
                    disk.unlock(files.lock_fd)  # 7
                if self._index_due:
                    from pspf.log.index import note_batches

                    note_batches(files, self._index_due)
                return placed
            except OSError as error:
                raise pspf.errors.from_os(
                    error, f"cannot append to {self.identity}", files.path_of(self.end.segment)
                ) from error

    def _write_locked(
        self, encoded: Encoded, expect_offset: "int | None", producer: "ProducerCheck | None"
    ) -> "Placed | None":
        end = self.end
        if producer is not None or self.producers is not None or end.producers != NO_TABLE:  # 4
            from pspf.log.producers import before_append

            known = before_append(self, encoded, producer)
            if known is not None:
                return known
            end = self.end
        if expect_offset is not None and expect_offset != end.offset:
            raise pspf.errors.OffsetConflict(
                f"cannot append to {self.identity} at offset {expect_offset}", f"its end is {end.offset}"
            )
        size = HEADER_BYTES + encoded.body_length
        if end.position + size > self.identity.config.segment_bytes and end.offset > end.segment.base:
            # The kernel tells of a failed write-back once for each descriptor. Were it told to a sync that
            # runs beside the one of the roll, the roll would publish what is lost.
            if self._syncing:
                return None
            from pspf.log.roll import roll

            roll(self)
            end = self.end
        self.put(encoded, size)
        first = end.offset - encoded.span
        return Placed(first, end.offset - 1, end.offset, end.position - self.durable_position)

    def put(self, encoded: Encoded, size: int) -> None:
        """Steps 5 and 6 for one batch that fits."""
        disk, end, record = self.files.disk, self.end, self.record
        segment = end.segment
        position, first = end.position, end.offset
        append_ns = max(disk.now_ns(), end.append_ns + 1)
        back = NO_TABLE if end.producers == NO_TABLE else position - end.producers
        if encoded.kind_codec >> 4 == KIND_TABLE or (back == NO_TABLE and encoded.producer_id >= 0):
            back = 0
        header = encoded.seal(
            first, end.epoch, append_ns, segment.segment_id, position, end.chain or 0, self.durable_end, back
        )
        after = position + size
        zeros_end = record.zeros_end
        parts = [header, *encoded.parts]
        if after > zeros_end and not self._zeros_off and self._appended and size < SMALL_APPEND:
            room = max(64 << 10, min(1 << 20, after >> 4))
            zeros_end = min(after + room, max(self.identity.config.segment_bytes, after))
            parts.append(bytes(zeros_end - after))
        # Until the end is recorded this handle knows nothing: whatever interrupts it, it looks again.
        before, self.raw = self.raw, b""
        try:
            if size < SMALL_APPEND and len(parts) < 4:
                disk.pwrite(segment.fd, b"".join(parts), position)
            else:
                disk.pwritev(segment.fd, parts, position)
        except OSError:
            from pspf.log.others import give_back

            give_back(self, max(position, record.zeros_end))
            if zeros_end == record.zeros_end:
                raise
            self._zeros_off = True  # no room for zeros ahead: without them it may still fit
            self.raw = before
            return self.put(encoded, size)
        if self._visible_at_write and not record.oldest_unsynced_ms:
            record.oldest_unsynced_ms = append_ns // 1_000_000
        record.active_base = segment.base
        record.written_offset = end.offset = first + encoded.span
        record.written_position = end.position = after
        record.last_crc = end.chain = int.from_bytes(header[4:8], "little")
        record.zeros_end = zeros_end
        record.producers_position = end.producers = NO_TABLE if back == NO_TABLE else position - back
        record.last_append_ns = end.append_ns = append_ns
        last, record.last_position, end.last = end.last, position, position
        raw = record.encode()
        try:
            disk.pwrite(self.files.lock_fd, raw, 0)  # 6
        except OSError as error:
            from pspf.log.others import take_back

            take_back(self, before, position, error)
            raise
        self.raw = raw
        self._appended += 1
        if self._visible_at_write:
            try:
                self._publish_visible()
            except OSError as error:
                raise self._unknown("written, but showing them to readers failed", error) from error
        if not last or position // INDEX_CHUNK != last // INDEX_CHUNK:
            self._index_due.append((segment, position, first, append_ns, self._max_time))
            self._max_time = encoded.max_timestamp if encoded.count else NO_TIME
        elif encoded.count and self._max_time is not None and encoded.max_timestamp > self._max_time:
            self._max_time = encoded.max_timestamp

    def _publish_visible(self) -> None:
        """Durability ``interval`` and ``os``: readers may go to the written end at once."""
        end, commit = self.end, self.current_commit()
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
        self._publish(slot)

    def current_commit(self) -> Commit:
        """The slot in force; the append lock is held."""
        raw = self.files.disk.pread(self.files.commit_fd, FILE_BYTES, 0)
        if raw == self._commit_raw:
            return self._commit  # type: ignore[return-value]  # nobody published since this handle did
        commit = self.files.parse_commit(raw)
        if commit is None:
            raise self.files.unreadable_commit()
        if commit.flags & FLAG_DELETED:
            raise self.deleted()
        if commit.flags & FLAG_POISONED or commit.generation != self.generation:
            self.poisoned = "seen by another process"
            raise self.poisoned_error()
        self._commit, self._commit_raw = commit, raw
        return commit

    def forget_commit(self) -> None:
        """What this handle remembers of ``commit`` no longer holds."""
        self._commit, self._commit_raw = None, b""

    def _publish(self, slot: Commit) -> None:
        """Write a slot behind :meth:`current_commit`, and remember what the file holds now."""
        data, place = slot.encode(), slot.place
        raw, self._commit_raw = self._commit_raw, b""
        self.files.disk.pwrite(self.files.commit_fd, data, place)
        self._commit, self._commit_raw = slot, raw[:place] + data + raw[place + SLOT_BYTES :]

    # -- durability

    def sync(self, offset: int) -> None:
        """Steps 8 to 10: return when everything below ``offset`` is on stable storage and published.

        :raises pspf.errors.Poisoned: the sync failed; nothing that was not acknowledged before is.
        :raises pspf.errors.OutcomeUnknown: durable, perhaps, but not published: not acknowledged.
        """
        self.usable()
        with self._sync_mutex:  # one thread at a time syncs a descriptor
            if self.durable_end >= offset:
                return
            with self.mutex:
                self.usable()
                end, fd = self.end, self.end.segment.fd
                target = (end.segment.base, end.offset, end.position, end.last)
                self._syncing = True
            try:
                self.files.disk.fdatasync(fd)  # 8, without the append lock
            except OSError as error:
                self.poisoned = error.strerror or "sync failed"  # first, and without anything that can fail
                with self.mutex:
                    self.poison()
                raise self.poisoned_error() from error
            finally:
                self._syncing = False
                while self._retired:
                    self.files.disk.close(self._retired.pop())
            with self.mutex:
                self._publish_durable(target)  # 9

    def _publish_durable(self, target: "tuple[int, int, int, int]") -> None:
        files, disk = self.files, self.files.disk
        base, offset, position, last = target
        try:
            try:
                disk.lock(files.lock_fd)
                commit = self.current_commit()
                if commit.durable_offset < offset:
                    # ``base`` is still the active segment: a roll publishes all of the old one.
                    disk.update_times(files.commit_fd)  # fails if the sync succeeded for an aborted journal
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
                    self._publish(slot)
                    self.commit_unsynced += position - commit.durable_position
                    commit = slot
                    if self._visible_at_write and self.record.oldest_unsynced_ms:
                        from pspf.log.others import clear_unsynced

                        clear_unsynced(self, offset)
                self.durable_end, self.durable_position = commit.durable_offset, commit.durable_position
            finally:
                disk.unlock(files.lock_fd)
            if self.commit_unsynced >= COMMIT_SYNC_BYTES:
                self.commit_unsynced = 0
                disk.fdatasync(files.commit_fd)
        except OSError as error:
            raise self._unknown("on disk, but saying so failed", error) from error

    def acknowledge(self, placed: Placed) -> None:
        """Make a batch as durable as this writer's level says, and bound what is left unsynced."""
        if self.durability == "sync":
            self.sync(placed.end)
            return
        if placed.unsynced > UNSYNCED_LIMIT:
            self.sync(placed.end)
        elif self.durability == "interval":
            from pspf.log.timer import sync_in_time

            sync_in_time(self, placed.end)

    def _unknown(self, how_far: str, error: OSError) -> "pspf.errors.OutcomeUnknown":
        return pspf.errors.OutcomeUnknown(
            f"cannot acknowledge records of {self.identity}",
            f"they are {how_far}: {error.strerror}",
            f"{self.identity.path}/commit",
            f"look at the end of the topic with: pspf tail {self.identity.topic}",
        )

    def poison(self) -> None:
        """Flag the partition before the failed sync is told: nobody may acknowledge what it lost."""
        try:
            try:
                self.files.disk.lock(self.files.lock_fd)
                self.poison_locked(self.poisoned)
            finally:
                self.files.disk.unlock(self.files.lock_fd)
        except OSError:
            pass  # this handle is dead all the same; the others meet the same disk

    def poison_locked(self, why: str) -> None:
        """As :meth:`poison`, with the append lock held. All that it needs is in memory already."""
        self.poisoned = why
        files = self.files
        try:
            _, record = files.read_lock()
            if record is not None and record.generation == self.generation:
                record.flags |= FLAG_POISONED
                files.disk.pwrite(files.lock_fd, record.encode(), 0)
            commit = files.read_commit()
            if commit is not None and commit.generation == self.generation:
                slot = copy_slot(commit, flags=commit.flags | FLAG_POISONED)
                files.disk.pwrite(files.commit_fd, slot.encode(), slot.place)
        except (OSError, pspf.errors.Error):
            pass  # the next opener, alone, reads everything back from the disk anyway

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

    # -- closing

    def close(self) -> None:
        """Make everything durable and let go. The last writer gives the preallocated space back."""
        if self._closed:
            return
        if self._forks != real.forks:
            self._closed = True
            return
        try:
            if not (self.poisoned or self._gone) and self.durable_end < self.end.offset and self._appended:
                self.sync(self.end.offset)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        with self._sync_mutex, self.mutex:  # no descriptor is closed under a sync of another thread
            if self._closed:
                return  # by another thread
            self._closed = True
            try:
                zeros = self.record.zeros_end > self.end.position
                if zeros or self.commit_unsynced >= CLOSE_SYNC_BYTES:
                    from pspf.log.others import tidy_up

                    tidy_up(self, zeros)
            finally:
                for fd in (*self._retired, self.end.segment.fd):
                    self.files.disk.close(fd)
                self.files.close()
