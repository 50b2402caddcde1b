"""Mutants of `pspf/store`, `pspf/disk` and `pspf/format`. See :mod:`tests.mutation`."""

from tests.mutation import Mutant

LIFE = "pspf/store/lifecycle.py:"

STORE: list[Mutant] = [
    # -- files that are replaced as a whole
    Mutant("pspf/disk/atomic.py:replace_file", "disk.fsync(fd)", "pass", ""),
    Mutant("pspf/disk/atomic.py:replace_file", "disk.fsync(dir_fd)", "pass", ""),
    Mutant("pspf/disk/atomic.py:sync_ancestors", "disk.fsync(fd)", "pass", ""),
    # -- stores and topics come and go
    Mutant("pspf/store/init.py:create_store", "disk.lock(dir_fd)", "pass", ""),
    Mutant("pspf/store/init.py:create_store", "_sync_parent(disk, path)", "pass", ""),
    Mutant("pspf/store/init.py:_make_directories", "_sync_parent(disk, directory)", "pass", ""),
    Mutant("pspf/store/init.py:_sync_parent", "disk.fsync(parent)", "pass", ""),
    Mutant(
        "pspf/store/store.py:Store.lock_names", "self._naming.acquire()", "self._naming.acquire(False)", ""
    ),
    Mutant("pspf/store/store.py:Store.lock_names", "self.disk.lock(self.topics_fd)", "pass", ""),
    Mutant(LIFE + "create_topic", "store.lock_names()", "store._naming.acquire()", ""),
    Mutant(LIFE + "create_topic", "disk.fsync(fd)", "pass", ""),
    Mutant(LIFE + "create_topic", "disk.fsync(dir_fd)", "pass", ""),
    Mutant(LIFE + "create_topic", 'sync_ancestors(disk, f"{store.path}/topics/{name}", 2)', "pass", ""),
    Mutant(LIFE + "alter_topic", "store.lock_names()", "store._naming.acquire()", ""),
    Mutant(LIFE + "rename_topic", "disk.fsync(store.topics_fd)", "pass", ""),
    Mutant(LIFE + "delete_topic", "disk.fsync(store.topics_fd)", "pass", ""),
    Mutant(LIFE + "delete_topic", "_flag_deleted(store, doomed)", "pass", ""),
    Mutant(LIFE + "_flag_partition", "disk.lock(lock_fd)", "pass", ""),
    Mutant(LIFE + "_flag_partition", "record.flags |= FLAG_DELETED", "pass", ""),
    Mutant(LIFE + "_flag_partition", "flags=commit.flags | FLAG_DELETED", "flags=commit.flags", ""),
    # -- repair
    Mutant("pspf/store/repair.py:_repair", "disk.lock(files.lock_fd)", "pass", ""),
    Mutant("pspf/store/repair.py:_repair", "not disk.lock(files.commit_fd, wait=False)", "False", ""),
    Mutant("pspf/store/repair.py:_decide", "recovery._adopt(slot)", "pass", ""),
    Mutant("pspf/store/repair.py:_decide", "quarantine(files, end.segment, start, size)", '""', ""),
    Mutant("pspf/store/repair.py:_write", "files.disk.fdatasync(files.commit_fd)", "pass", ""),
    Mutant(
        "pspf/store/repair.py:_decide",
        "slot = slot_of(slot, end, slot.flags, slot.generation, offset)\n    _write(files, slot)",
        "slot = slot_of(slot, end, slot.flags, slot.generation, offset)",
        "",
    ),
    # -- idempotent producers
    Mutant("pspf/store/resume.py:Resume._take_name", "not disk.lock(fd, wait=False)", "False", ""),
    Mutant(
        "pspf/store/resume.py:Resume.check_prefix",
        "crc32(data[: position - start], crc) != recorded",
        "False",
        "",
    ),
    # -- checksums
    Mutant("pspf/format/batch.py:header_fault", 'crc != int.from_bytes(header[4:8], "little")', "False", ""),
    Mutant("pspf/format/batch.py:header_fault", "header[:4] != MAGIC", "False", ""),
    Mutant(
        "pspf/format/batch.py:header_fault",
        "not 1 <= length <= MAX_BATCH_BODY or not 0 <= plain <= MAX_BATCH_BODY",
        "False",
        "",
    ),
    Mutant(
        "pspf/format/segment.py:segment_fault",
        'crc32(block[:4092]) != int.from_bytes(block[4092:4096], "little")',
        "False",
        "",
    ),
    Mutant("pspf/format/segment.py:segment_fault", "block[:8] != MAGIC", "False", ""),
    Mutant(
        "pspf/format/slots.py:_whole",
        'crc32_small(data[:60]) == int.from_bytes(data[60:], "little")',
        "True",
        "",
    ),
    Mutant(
        "pspf/format/index.py:decode_entries",
        'crc32_small(raw, seed) != int.from_bytes(data[at + 32 : at + 40], "little")',
        "False",
        "",
    ),
    Mutant(
        "pspf/format/settings.py:decode",
        """data[at:] != f'crc32 = "{crc32_small(data[:at]):08x}"\\n'.encode()""",
        "False",
        "",
    ),
    Mutant("pspf/format/slots.py:newest_commit", "if _whole(slot):", "if True:", ""),
    Mutant("pspf/format/slots.py:newest_commit", "if f[9] == topic_fold:", "if True:", ""),
    Mutant(
        "pspf/format/slots.py:newest_commit", "places = (SECOND_SLOT, 0)", "places = (0, SECOND_SLOT)", ""
    ),
    Mutant(
        "pspf/format/slots.py:commit_slots_valid",
        "_whole(first) or not any(first), _whole(second) or not any(second)",
        "True, True",
        "",
    ),
    Mutant("pspf/format/slots.py:parse_lock", "not _whole(data)", "False", ""),
    Mutant("pspf/format/slots.py:newest_start", "if _whole(slot):", "if True:", ""),
    Mutant(LIFE + "alter_topic_from", "store.lock_names()", "store._naming.acquire()", ""),
    Mutant(LIFE + "rename_topic", "store.lock_names()", "store._naming.acquire()", ""),
    Mutant(LIFE + "delete_topic", "store.lock_names()", "store._naming.acquire()", ""),
    Mutant("pspf/store/repair.py:_wants_decision", "commit.flags & FLAG_DELETED", "False", ""),
    Mutant("pspf/store/repair.py:_repair", "slot.flags & FLAG_DOUBT", "False", ""),
    Mutant("pspf/store/topics.py:_rebuild", "if segment_fault(block):", "if False:", ""),
    # -- what is shown and verified
    Mutant(
        "pspf/store/describe.py:_last_time",
        "not header_fault(data, 0, active.segment_id, commit.durable_last)",
        "True",
        "",
    ),
    Mutant("pspf/store/inspect.py:_segment", "fault = segment_fault(block)", 'fault = ""', ""),
    Mutant(
        "pspf/store/inspect.py:_batches",
        "fault = b.header_fault(head, 0, segment_id, position)",
        'fault = ""',
        "",
    ),
    Mutant("pspf/store/inspect.py:_row", "b.batch_crc_of(head, body) == header.batch_crc", "True", ""),
    Mutant(
        "pspf/store/verify_partition.py:Walk._header",
        "block is None or segment_fault(block)",
        "block is None",
        "",
    ),
    Mutant(
        "pspf/store/verify_partition.py:Walk._own_header", "fault = segment_fault(block)", 'fault = ""', ""
    ),
    Mutant(
        "pspf/store/verify_segment.py:SegmentWalk._over_damage",
        "not header_fault(data, 0, scanner.segment_id, position)",
        "True",
        "",
    ),
]
