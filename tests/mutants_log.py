"""Mutants of `pspf/log`: what makes records durable, exclusive and found again. See :mod:`tests.mutation`."""

from tests.mutation import Mutant

WRITER = "pspf/log/writer.py:PartitionWriter."
OTHERS = "pspf/log/others.py:"
RECOVERY = "pspf/log/recovery.py:"
HERE = "test_crash_states.py::"

LOG: list[Mutant] = [
    # -- opening
    Mutant(WRITER + "_open", "disk.lock(files.lock_fd)  # O2", "pass", ""),
    Mutant(WRITER + "_open", "alone = disk.lock(files.commit_fd, wait=False)", "alone = False", ""),
    Mutant(WRITER + "_open", "commit is not None and commit.flags & FLAG_DELETED", "False", ""),
    Mutant(WRITER + "_open", "flags |= record.flags", "pass", ""),
    Mutant(WRITER + "_open", "commit is not None and flags & FLAG_POISONED", "False", ""),
    Mutant(WRITER + "_open", "or record.flags & FLAG_ROLLING", "", ""),
    Mutant(WRITER + "_open", "or record.generation != commit.generation", "", ""),
    Mutant(WRITER + "_open", "not disk.lock_shared(files.commit_fd)", "False", ""),
    Mutant(WRITER + "_open", "disk.pwrite(files.lock_fd, self.raw, 0)", "pass", ""),
    Mutant(WRITER + "_open", "not commit.flags & FLAG_LINKED", "False", ""),
    Mutant(WRITER + "_open", "commit.durable_offset < fresh.written_offset", "False", ""),
    # -- appending
    Mutant(WRITER + "_usable", "if self.poisoned:", "if False:", ""),
    Mutant(WRITER + "_usable", "self._forks != real.forks", "False", ""),
    Mutant(WRITER + "refreshed_end", "self.files.disk.lock(self.files.lock_fd)", "pass", ""),
    Mutant(WRITER + "_refresh", "and not record.flags\n", "\n", ""),
    Mutant(WRITER + "_refresh", "and record.generation == self.generation", "", ""),
    Mutant(WRITER + "_refresh", "and record.active_base == self.end.segment.base", "", ""),
    Mutant(WRITER + "write", "with self._mutex:", "if True:", ""),
    Mutant(WRITER + "write", "disk.lock(files.lock_fd)", "pass", ""),
    Mutant(WRITER + "write", "if raw != self.raw:", "if False:", ""),
    Mutant(WRITER + "write", "if self._doubt:", "if False:", ""),
    Mutant(WRITER + "_write_locked", "if known is not None:", "if False:", ""),
    Mutant(
        WRITER + "_write_locked", "expect_offset is not None and expect_offset != end.offset", "False", ""
    ),
    Mutant(
        WRITER + "put",
        "        try:\n            if size < SMALL_APPEND and",
        "        record.written_offset, record.written_position = first + encoded.span, after\n"
        "        disk.pwrite(self.files.lock_fd, record.encode(), 0)\n"
        "        try:\n            if size < SMALL_APPEND and",
        "",
    ),
    Mutant(WRITER + "put", "disk.pwrite(self.files.lock_fd, raw, 0)  # 6", "pass", ""),
    Mutant(WRITER + "put", "take_back(self, before, position, error)", "pass", ""),
    Mutant(WRITER + "put", "give_back(self, max(position, record.zeros_end))", "pass", ""),
    Mutant(WRITER + "put", 'self.raw = b""  # should', "pass  # should", ""),
    Mutant(WRITER + "current_commit", "if commit.flags & FLAG_DELETED:", "if False:", ""),
    Mutant(WRITER + "current_commit", "commit.flags & FLAG_POISONED or ", "", ""),
    Mutant(WRITER + "current_commit", " or commit.generation != self.generation", "", ""),
    # -- durability
    Mutant(WRITER + "sync", "with self._sync_mutex:", "if True:", ""),
    Mutant(WRITER + "sync", "self.files.disk.fdatasync(fd)  # 8", "pass  # 8", ""),
    Mutant(
        WRITER + "sync",
        "            try:\n                self.files.disk.fdatasync(fd)",
        "            with self._mutex:\n                self._publish_durable(target)\n"
        "            try:\n                self.files.disk.fdatasync(fd)",
        "",
    ),
    Mutant(WRITER + "sync", 'poison(self, error.strerror or "sync failed")', "pass", ""),
    Mutant(WRITER + "sync", "raise self.poisoned_error() from error", "pass", ""),
    Mutant(WRITER + "sync", "self._syncing = True", "pass", ""),
    Mutant(WRITER + "_publish_durable", "disk.lock(files.lock_fd)", "pass", ""),
    Mutant(WRITER + "_publish_durable", "if commit.durable_offset < offset:", "if True:", ""),
    Mutant(WRITER + "_publish_durable", "self._publish(slot)", "pass", ""),
    Mutant(WRITER + "_publish_durable", "commit.visible_offset if visible else offset", "offset", ""),
    Mutant(WRITER + "_publish_durable", "disk.fdatasync(files.commit_fd)", "pass", ""),
    Mutant(WRITER + "acknowledge", "placed.unsynced > UNSYNCED_LIMIT or ", "", ""),
    Mutant(WRITER + "acknowledge", " or self._overdue()", "", ""),
    Mutant(WRITER + "acknowledge", "start_timer(self)", "pass", ""),
    Mutant(WRITER + "close", "self.sync(self.end.offset)", "pass", ""),
    # -- beside others
    Mutant(OTHERS + "adopt_others", "if not kept:", "if False:", ""),
    Mutant(OTHERS + "adopt_others", 'poison_locked(writer, error.strerror or "sync failed")', "pass", ""),
    Mutant(
        OTHERS + "adopt_others",
        'poison_locked(writer, "the disk does not keep what is written to it")',
        "pass",
        "",
    ),
    Mutant(OTHERS + "link", "sync_ancestors(writer.files.disk, writer.identity.path, 3)", "pass", ""),
    Mutant(OTHERS + "refresh", "record is not None and record.flags & FLAG_DELETED", "False", ""),
    Mutant(
        OTHERS + "refresh",
        "(record.flags & FLAG_ROLLING and record.generation == writer.generation)",
        "False",
        "",
    ),
    Mutant(OTHERS + "refresh", "record.flags & FLAG_POISONED or ", "", ""),
    Mutant(OTHERS + "refresh", " or record.generation != writer.generation:", ":", ""),
    Mutant(OTHERS + "refresh", "commit.durable_offset < record.written_offset", "False", ""),
    Mutant(OTHERS + "retake", "commit.flags & FLAG_POISONED or ", "", ""),
    Mutant(OTHERS + "retake", " or commit.generation != writer.generation", "", ""),
    Mutant(OTHERS + "trim_zeros", "disk.lock(files.lock_fd)", "pass", ""),
    Mutant(OTHERS + "trim_zeros", "not disk.lock(files.commit_fd, wait=False)", "False", ""),
    Mutant(OTHERS + "trim_zeros", "or raw != writer.raw", "", ""),
    Mutant(OTHERS + "trim_zeros", "disk.fdatasync(files.commit_fd)", "pass", ""),
    Mutant(
        OTHERS + "take_back",
        "writer.files.disk.pwrite(writer.end.segment.fd, bytes(HEADER_BYTES), position)",
        "pass",
        "",
    ),
    Mutant(OTHERS + "take_back", "writer.files.disk.pwrite(writer.files.lock_fd, before, 0)", "pass", ""),
    # -- poison
    Mutant("pspf/log/poison.py:poison", "writer.files.disk.lock(writer.files.lock_fd)", "pass", ""),
    Mutant("pspf/log/poison.py:poison", "writer.poisoned = why", "pass", ""),
    Mutant("pspf/log/poison.py:poison_locked", "record.flags |= FLAG_POISONED", "pass", ""),
    Mutant("pspf/log/poison.py:poison_locked", "writer.publish_slot(slot, commit)", "pass", ""),
    Mutant("pspf/log/poison.py:poison_locked", "writer.poisoned = why", "pass", ""),
    Mutant(
        "pspf/log/poison.py:poison_locked",
        "record is not None and record.generation == writer.generation",
        "record is not None",
        "",
    ),
    Mutant(
        "pspf/log/poison.py:poison_locked",
        "commit is not None and commit.generation == writer.generation",
        "commit is not None",
        "",
    ),
    # -- adopting
    Mutant("pspf/log/adopt.py:adopt", "    disk.fdatasync(segment.fd)\n    differing", "    differing", ""),
    Mutant("pspf/log/adopt.py:adopt", "disk.pwrite(segment.fd, data, at)", "pass", ""),
    Mutant("pspf/log/adopt.py:adopt", "    disk.fdatasync(segment.fd)\n    return all", "    return all", ""),
    Mutant(
        "pspf/log/adopt.py:adopt",
        "all(_on_medium(disk, dir_fd, segment, at, data) for at, data in differing)",
        "True",
        "",
    ),
    Mutant(
        "pspf/log/adopt.py:_on_medium",
        "disk.read_stable(segment.fd, segment.name, dir_fd, len(data), at)",
        "disk.pread(segment.fd, len(data), at)",
        "",
    ),
    # -- rolling
    Mutant("pspf/log/roll.py:roll", "disk.fdatasync(end.segment.fd)", "pass", ""),
    Mutant("pspf/log/roll.py:roll", "disk.truncate(end.segment.fd, end.position)", "pass", ""),
    Mutant("pspf/log/roll.py:roll", "disk.fsync(end.segment.fd)", "pass", ""),
    Mutant(
        "pspf/log/roll.py:roll",
        'poison_locked(writer, error.strerror or "sync failed")\n        raise writer.poisoned_error() from'
        " error\n    commit =",
        "raise writer.poisoned_error() from error\n    commit =",
        "",
    ),
    Mutant(
        "pspf/log/roll.py:roll",
        'poison_locked(writer, error.strerror or "sync failed")\n        raise writer.poisoned_error() from'
        " error\n    new =",
        "raise writer.poisoned_error() from error\n    new =",
        "",
    ),
    Mutant(
        "pspf/log/roll.py:roll",
        'poison_locked(writer, error.strerror or "sync failed")\n        raise writer.poisoned_error() from'
        " error\n    writer.take_commit",
        "raise writer.poisoned_error() from error\n    writer.take_commit",
        "",
    ),
    Mutant("pspf/log/roll.py:roll", "writer.record.flags |= FLAG_ROLLING", "pass", ""),
    Mutant("pspf/log/roll.py:roll", "disk.fdatasync(files.commit_fd)", "pass", ""),
    Mutant(
        "pspf/log/roll.py:roll",
        "disk.pwrite(files.commit_fd, slot.encode(), slot.place)\n    writer.take_commit(slot)",
        "writer.take_commit(slot)",
        "",
    ),
    # -- making files
    Mutant("pspf/log/create.py:create_partition", "disk.fsync(fd)", "pass", ""),
    Mutant("pspf/log/create.py:create_partition", "disk.fsync(dir_fd)", "pass", ""),
    Mutant("pspf/log/create.py:create_segment", "disk.fsync(fd)", "pass", ""),
    Mutant("pspf/log/create.py:create_segment", "disk.fsync(files.dir_fd)", "pass", ""),
    Mutant(
        "pspf/log/create.py:create_segment",
        "        disk.fsync(fd)\n"
        "        disk.rename(ROLL_TEMPORARY, segment_name(header.base), files.dir_fd)\n",
        "        disk.rename(ROLL_TEMPORARY, segment_name(header.base), files.dir_fd)\n"
        "        disk.fsync(fd)\n",
        "",
    ),
    Mutant("pspf/log/create.py:create_segment", "disk.unlink(ROLL_TEMPORARY, files.dir_fd)", "pass", ""),
    Mutant("pspf/log/quarantine.py:quarantine", "disk.fsync(parent)", "pass", ""),
    Mutant("pspf/log/quarantine.py:_write", "disk.fsync(fd)", "pass", ""),
    Mutant("pspf/log/quarantine.py:_write", "disk.fsync(dir_fd)", "pass", ""),
    Mutant("pspf/log/quarantine.py:quarantine", "not _release_reserve(files)", "True", ""),
    # -- recovery
    Mutant(RECOVERY + "Recovery.__init__", "self.commit.durable_offset if", "0 if", ""),
    Mutant(RECOVERY + "Recovery._find_start", "self.disk.fsync(files.dir_fd)", "pass", ""),
    Mutant(RECOVERY + "Recovery._follow", "self.disk.fsync(self.files.dir_fd)", "pass", ""),
    Mutant(RECOVERY + "Recovery._follow", "proven and segment.header is None", "False", ""),
    Mutant(RECOVERY + "Recovery._scan", "if found.durable_end > end.offset:", "if False:", ""),
    Mutant(RECOVERY + "Recovery._settle", "self._cut(size)", "pass", ""),
    Mutant(RECOVERY + "Recovery._settle", "self._adopt(previous)", "pass", ""),
    Mutant(
        RECOVERY + "Recovery._settle",
        "previous = slot_of(previous, end, previous.flags, generation, offset)\n"
        "            _write_slot(files, previous, sync=True)",
        "previous = slot_of(previous, end, previous.flags, generation, offset)",
        "",
    ),
    Mutant(
        RECOVERY + "Recovery._settle",
        "quarantine(files, end.segment, 0, size)",
        "quarantine",
        "",
    ),
    Mutant(
        RECOVERY + "Recovery._cut",
        "quarantine(self.files, end.segment, end.position, size)",
        '""',
        "",
    ),
    Mutant(
        RECOVERY + "Recovery._cut",
        "        kept = self.report.cut = quarantine(self.files, end.segment, end.position, size)\n"
        "        self.disk.truncate(end.segment.fd, end.position)\n",
        "        self.disk.truncate(end.segment.fd, end.position)\n"
        "        kept = self.report.cut = quarantine(self.files, end.segment, end.position, size)\n",
        "",
    ),
    Mutant(RECOVERY + "Recovery._cut", "self.disk.fsync(end.segment.fd)", "pass", ""),
    Mutant(RECOVERY + "Recovery._adopt", "not adopt(", "adopt(", ""),
    Mutant(RECOVERY + "Recovery._publish", "flags &= ~FLAG_POISONED", "pass", ""),
    Mutant(
        RECOVERY + "Recovery._publish",
        "            assert commit is not None\n            generation += 1",
        "            assert commit is not None",
        "",
    ),
    Mutant(RECOVERY + "Recovery._publish", "flags |= FLAG_EPOCH_DUE", "pass", ""),
    Mutant(RECOVERY + "Recovery._publish", "sync=commit is None", "sync=False", ""),
    Mutant(RECOVERY + "_write_slot", "files.disk.fdatasync(files.commit_fd)", "pass", ""),
    Mutant(RECOVERY + "start_epoch", "files.disk.fdatasync(end.segment.fd)", "pass", ""),
    Mutant(RECOVERY + "heal", "disk.fdatasync(files.commit_fd)", "pass", ""),
    Mutant(RECOVERY + "heal", "quarantine(files, old, end.position, disk.size(old.fd))", '""', ""),
    Mutant(RECOVERY + "heal", "is_healed(files, commit, old)", "False", ""),
    Mutant(
        RECOVERY + "heal",
        "commit.flags & ~FLAG_POISONED, commit.generation + 1",
        "commit.flags & ~FLAG_POISONED, commit.generation",
        "",
    ),
    Mutant("pspf/log/decision.py:decide", "if evidence > valid_end:", "if False:", ""),
    Mutant("pspf/log/decision.py:decide", "if not commit_known:", "if False:", ""),
    Mutant("pspf/log/end.py:read_last", "header.next_offset == commit.durable_offset", "True", ""),
    Mutant(
        "pspf/log/end.py:read_last",
        "not header_fault(data, 0, segment.segment_id, commit.durable_last)",
        "True",
        "",
    ),
    Mutant("pspf/log/end.py:settled_end", "and disk.size(segment.fd) == end.position", "", ""),
    Mutant(
        "pspf/log/end.py:settled_end",
        "and (end.offset == segment.base or not disk.exists(segment_name(end.offset), files.dir_fd))",
        "",
        "",
    ),
    # -- reading
    Mutant(
        "pspf/log/scan.py:Scanner.step",
        "if self.fault:\n            return None\n        header",
        "if False:\n            return None\n        header",
        "",
    ),
    Mutant(
        "pspf/log/scan.py:Scanner.step", "self.chain is not None and header.chain != self.chain", "False", ""
    ),
    Mutant("pspf/log/scan.py:Scanner.step", "header.base_offset != self.offset", "False", ""),
    Mutant(
        "pspf/log/scan.py:Scanner.step",
        "batch_crc_of(self.header_bytes, self.body) != header.batch_crc",
        "False",
        "",
    ),
    Mutant(
        "pspf/log/scan.py:headers_behind", "not header_fault(data, found, segment_id, at + found)", "True", ""
    ),
    Mutant("pspf/log/scan.py:hop", "header_fault(buffer, at, segment_id, position)", "False", ""),
    Mutant(
        "pspf/log/scan.py:find_segment_id",
        "not header_fault(data, found, segment_id, at + found)",
        "True",
        "",
    ),
    Mutant(
        "pspf/log/reader.py:PartitionReader._read_here",
        "fault = header_fault(data, at, segment.segment_id, position)",
        "pass",
        "",
    ),
    Mutant(
        "pspf/log/reader.py:PartitionReader._fault_of",
        "self._chain is not None and header.chain != self._chain",
        "False",
        "",
    ),
    Mutant(
        "pspf/log/reader.py:PartitionReader._fault_of", "header.base_offset > self.next_offset", "False", ""
    ),
    Mutant("pspf/log/reader.py:PartitionReader._fault_of", "header.next_offset > end_offset", "False", ""),
    Mutant(
        "pspf/log/reader.py:PartitionReader._fault_of",
        "header.span and header.next_offset <= self.next_offset",
        "False",
        "",
    ),
    Mutant(
        "pspf/log/reader.py:PartitionReader._leave",
        "header.prev_end != following or (header.prev_crc and header.prev_crc != chain)",
        "False",
        "",
    ),
    Mutant("pspf/log/reader.py:PartitionReader._leave", "if self.next_offset < following:", "if False:", ""),
    Mutant("pspf/log/reader.py:PartitionReader._refresh", "if commit.flags & FLAG_DELETED:", "if False:", ""),
    Mutant(
        "pspf/log/reader.py:PartitionReader._refresh",
        "before is not None and before.generation != commit.generation",
        "False",
        "",
    ),
    Mutant(
        "pspf/log/reader.py:PartitionReader._refresh", "commit.visible_offset < self.next_offset", "False", ""
    ),
    Mutant("pspf/log/settle.py:settle", "disk.lock(lock_fd)", "pass", ""),
    Mutant("pspf/log/settle.py:settle", "not disk.lock(commit_fd, wait=False)", "False", ""),
    Mutant(
        "pspf/log/settle.py:_behind",
        "commit.flags & FLAG_POISONED and not commit.flags & FLAG_DELETED",
        "False",
        "",
    ),
    Mutant("pspf/log/settle.py:_behind", "commit.flags & (FLAG_DELETED | FLAG_DOUBT)", "False", ""),
    Mutant(
        "pspf/log/files.py:PartitionFiles.open_segment",
        "writable and self.disk.stat(fd).st_nlink > 1",
        "False",
        "",
    ),
    Mutant(
        "pspf/log/files.py:PartitionFiles.open_segment",
        "header.base == base and header.topic_id == me.topic_id and header.partition == me.partition",
        "True",
        "",
    ),
    Mutant(
        "pspf/log/files.py:PartitionFiles.looks_settled",
        "commit.visible_offset != commit.durable_offset",
        "False",
        "",
    ),
    Mutant(
        "pspf/log/producers.py:load",
        "batch_crc_of(raw[:HEADER_BYTES], body) != header.batch_crc",
        "False",
        "",
    ),
    Mutant("pspf/log/producers.py:_check", "check.epoch is not None and check.epoch < epoch", "False", ""),
    Mutant("pspf/log/producers.py:_check", "behind > SEQUENCE_MASK // 2", "False", ""),
    Mutant("pspf/log/producers.py:_check", "p is not None and p.name and p.name != check.name", "False", ""),
    # -- checks on the way
    Mutant(WRITER + "_open", "and record.generation == commit.generation", "", ""),
    Mutant(WRITER + "_open", "adopt_others(self, commit)", "pass", ""),
    Mutant(WRITER + "close", "not self.poisoned and self.durable_end", "self.durable_end", ""),
    Mutant(WRITER + "close", "not self.poisoned and self.record", "self.record", ""),
    Mutant(OTHERS + "adopt_others", "kept = adopt(", "kept = True or adopt(", ""),
    Mutant(OTHERS + "refresh", "adopt_others(writer, commit)", "pass", ""),
    Mutant("pspf/log/poison.py:poison", "poison_locked(writer, why)", "pass", ""),
    Mutant(
        "pspf/log/end.py:accept_first",
        "not header_fault(data, 0, end.segment.segment_id, end.position)",
        "True",
        "",
    ),
    Mutant("pspf/log/files.py:PartitionFiles.open_segment", "fault = segment_fault(block)", 'fault = ""', ""),
    Mutant(
        "pspf/log/reader.py:PartitionReader._fault_of",
        "batch_crc_of(view[at : at + HEADER_BYTES], view[at + HEADER_BYTES : at + header.size])\n"
        "            != header.batch_crc",
        "False",
        "",
    ),
    Mutant(
        "pspf/log/reader.py:PartitionReader._fail",
        "fresh is None or fresh.generation != generation",
        "False",
        "",
    ),
    Mutant(
        RECOVERY + "Recovery._find_start", "commit is not None and commit.flags & FLAG_POISONED", "False", ""
    ),
    Mutant(
        "pspf/log/scan.py:Scanner.step",
        "header_fault(self._buffer, at, self.segment_id, self.position)",
        '""',
        "",
    ),
    Mutant(
        "pspf/log/search.py:_offsets_and_times",
        "batch_crc_of(raw[:HEADER_BYTES], raw[HEADER_BYTES:]) != header.batch_crc",
        "False",
        "",
    ),
]
