"""Mutants of `pspf/store`, `pspf/disk` and `pspf/format`. See :mod:`tests.mutation`."""

from tests.mutation import Mutant

LIFE = "pspf/store/lifecycle.py:"

STORE: list[Mutant] = [
    # -- files that are replaced as a whole
    Mutant(
        "pspf/disk/atomic.py:replace_file",
        "disk.fsync(fd)",
        "pass",
        "test_steps_of_recovery.py::test_a_topic_that_was_altered_stays_so",
    ),
    Mutant(
        "pspf/disk/atomic.py:replace_file",
        "disk.fsync(dir_fd)",
        "pass",
        "test_steps_of_recovery.py::test_a_topic_that_was_altered_stays_so",
    ),
    Mutant(
        "pspf/disk/atomic.py:sync_ancestors",
        "disk.fsync(fd)",
        "pass",
        "test_crash_states.py::test_nothing_acknowledged_is_lost[store in new directories]",
    ),
    # -- stores and topics come and go
    Mutant(
        "pspf/store/init.py:create_store",
        "disk.lock(dir_fd)",
        "pass",
        "test_steps_of_appending.py::test_making_a_store_waits_for_who_makes_it",
    ),
    Mutant(
        "pspf/store/init.py:_make_directories",
        "_sync_parent(disk, directory)",
        "pass",
        "test_steps_of_recovery.py::test_a_store_that_was_made_is_there_with_the_directories_above_it",
    ),
    Mutant(
        "pspf/store/init.py:_sync_parent",
        "disk.fsync(parent)",
        "pass",
        "test_steps_of_recovery.py::test_a_store_that_was_made_is_there_with_the_directories_above_it",
    ),
    Mutant(
        "pspf/store/store.py:Store.lock_names",
        "self._naming.acquire()",
        "self._naming.acquire(False)",
        "test_library.py::test_threads_that_create_one_topic_at_once",
    ),
    Mutant(
        "pspf/store/store.py:Store.lock_names",
        "self.disk.lock(self.topics_fd)",
        "pass",
        "test_steps_of_appending.py::test_changes_of_names_wait_for_each_other[create]",
    ),
    Mutant(
        LIFE + "create_topic",
        "store.lock_names()",
        "store._naming.acquire()",
        "test_steps_of_appending.py::test_changes_of_names_wait_for_each_other[create]",
    ),
    Mutant(
        LIFE + "create_topic",
        "disk.fsync(fd)",
        "pass",
        "test_steps_of_recovery.py::test_a_topic_that_was_made_is_there_with_its_settings",
    ),
    Mutant(
        LIFE + "create_topic",
        "disk.fsync(dir_fd)",
        "pass",
        "test_steps_of_recovery.py::test_a_topic_that_was_made_is_there_with_its_settings",
    ),
    Mutant(
        LIFE + "create_topic",
        'sync_ancestors(disk, f"{store.path}/topics/{name}", 2)',
        "pass",
        "test_steps_of_recovery.py::test_a_topic_that_was_made_is_there_with_its_settings",
    ),
    Mutant(
        LIFE + "alter_topic",
        "store.lock_names()",
        "store._naming.acquire()",
        "test_steps_of_appending.py::test_changes_of_names_wait_for_each_other[alter]",
    ),
    Mutant(
        LIFE + "rename_topic",
        "disk.fsync(store.topics_fd)",
        "pass",
        "test_steps_of_recovery.py::test_a_topic_that_was_renamed_stays_so",
    ),
    Mutant(
        LIFE + "_finish_leftovers",
        "_flag_deleted(store, name)",
        "pass",
        "test_crash_together.py::test_a_handle_is_told_when_another_process_finishes_a_delete",
    ),
    Mutant(
        LIFE + "_flag_partition",
        "disk.lock(lock_fd)",
        "pass",
        "test_steps_of_appending.py::test_it_waits_for_the_append_lock[the deletion of a topic]",
    ),
    Mutant(
        LIFE + "_flag_partition",
        "record.flags |= FLAG_DELETED",
        "pass",
        "test_steps_of_appending.py::test_a_write_after_the_topic_was_deleted_is_refused",
    ),
    Mutant(
        LIFE + "_flag_partition",
        "flags=commit.flags | FLAG_DELETED",
        "flags=commit.flags",
        "test_steps_of_appending.py::test_nothing_is_acknowledged_in_a_topic_that_was_deleted_before_the_sync",
    ),
    Mutant(
        "pspf/store/topics.py:load_topic",
        "disk.fsync(topics_fd)",
        "pass",
        "test_crash_together.py::test_a_name_that_somebody_relied_on_outlives_a_power_cut",
    ),
    Mutant(
        LIFE + "_finish_leftovers",
        "store.disk.fsync(store.topics_fd)",
        "pass",
        "test_steps_of_rolling.py::test_a_deletion_that_another_process_finishes_is_never_undone_by_half",
    ),
    # -- repair
    Mutant(
        "pspf/store/repair.py:_repair",
        "disk.lock(files.lock_fd)",
        "pass",
        "test_steps_of_appending.py::test_it_waits_for_the_append_lock[a repair]",
    ),
    Mutant(
        "pspf/store/repair.py:_repair",
        "not disk.lock(files.commit_fd, wait=False)",
        "False",
        "test_steps_of_recovery.py::test_repair_waits_for_no_writer_it_refuses",
    ),
    Mutant(
        "pspf/store/repair.py:_decide",
        "quarantine(files, end.segment, start, size)",
        '""',
        "test_steps_of_recovery.py::test_a_repair_that_dies_or_loses_power_anywhere_can_be_done_again",
    ),
    # -- idempotent producers
    Mutant(
        "pspf/store/resume.py:Resume._take_name",
        "not disk.lock(fd, wait=False)",
        "False",
        "test_forged_batches.py::test_a_producer_whose_name_is_in_use_is_busy",
    ),
    Mutant(
        "pspf/store/resume.py:Resume.check_prefix",
        "crc32(data[: position - start], crc) != recorded",
        "False",
        "test_forged_batches.py::test_another_input_under_the_name_of_a_producer_is_refused",
    ),
    # -- checksums
    Mutant(
        "pspf/format/batch.py:header_fault",
        'crc != int.from_bytes(header[4:8], "little")',
        "False",
        "test_format_vectors.py::test_every_flipped_bit_of_a_segment_is_noticed",
    ),
    Mutant(
        "pspf/format/batch.py:header_fault",
        "count > MAX_BATCH_RECORDS",
        "False",
        "test_bounds.py::test_a_batch_of_more_records_than_memory_is_refused_by_its_header",
    ),
    Mutant(
        "pspf/format/batch.py:header_fault",
        "header[:4] != MAGIC",
        "False",
        "test_format_vectors.py::test_every_flipped_bit_of_a_segment_is_noticed",
    ),
    Mutant(
        "pspf/format/batch.py:header_fault",
        "not 1 <= length <= MAX_BATCH_BODY or not 0 <= plain <= MAX_BATCH_BODY",
        "False",
        "test_forged_batches.py::test_lengths_out_of_bounds_are_refused_before_anything_is_allocated",
    ),
    Mutant(
        "pspf/format/segment.py:segment_fault",
        'crc32(block[:4092]) != int.from_bytes(block[4092:4096], "little")',
        "False",
        "test_format_vectors.py::test_every_flipped_bit_of_a_segment_is_noticed",
    ),
    Mutant(
        "pspf/format/slots.py:_whole",
        'crc32_small(data[:60]) == int.from_bytes(data[60:], "little")',
        "True",
        "test_format_vectors.py::test_every_flipped_bit_of_a_vector_is_noticed",
    ),
    Mutant(
        "pspf/format/index.py:decode_entries",
        'crc32_small(raw, seed) != int.from_bytes(data[at + 32 : at + 40], "little")',
        "False",
        "test_format_vectors.py::test_every_flipped_bit_of_a_vector_is_noticed",
    ),
    Mutant(
        "pspf/format/settings.py:decode",
        """data[at:] != f'crc32 = "{crc32_small(data[:at]):08x}"\\n'.encode()""",
        "False",
        "test_format_vectors.py::test_every_flipped_bit_of_a_settings_file_is_noticed",
    ),
    Mutant(
        "pspf/format/slots.py:newest_commit",
        "if _whole(slot):",
        "if True:",
        "test_forged_batches.py::test_a_damaged_newest_slot_is_passed_over_for_the_one_before",
    ),
    Mutant(
        "pspf/format/slots.py:newest_commit",
        "f[9] == topic_fold and ",
        "",
        "test_format_fuzz.py::test_slots_of_another_topic_do_not_count",
    ),
    Mutant(
        "pspf/format/slots.py:newest_commit",
        "places = (SECOND_SLOT, 0)",
        "places = (0, SECOND_SLOT)",
        "test_forged_batches.py::test_the_newest_of_two_whole_slots_counts",
    ),
    Mutant(
        "pspf/format/slots.py:commit_slots_valid",
        "_whole(first) or not any(first), _whole(second) or not any(second)",
        "True, True",
        "test_decision_table_files.py::test_one_damaged_slot_of_commit_is_no_damage",
    ),
    Mutant(
        "pspf/format/slots.py:parse_lock",
        "not _whole(data)",
        "False",
        "test_format_vectors.py::test_every_flipped_bit_of_a_vector_is_noticed",
    ),
    Mutant(
        "pspf/format/slots.py:newest_start",
        "if _whole(slot):",
        "if True:",
        "test_forged_batches.py::test_a_damaged_newest_slot_is_passed_over_for_the_one_before",
    ),
    Mutant(
        LIFE + "alter_topic_from",
        "store.lock_names()",
        "store._naming.acquire()",
        "test_steps_of_appending.py::test_changes_of_names_wait_for_each_other[alter from]",
    ),
    Mutant(
        LIFE + "rename_topic",
        "store.lock_names()",
        "store._naming.acquire()",
        "test_steps_of_appending.py::test_changes_of_names_wait_for_each_other[rename]",
    ),
    Mutant(
        LIFE + "delete_topic",
        "store.lock_names()",
        "store._naming.acquire()",
        "test_steps_of_appending.py::test_changes_of_names_wait_for_each_other[delete]",
    ),
    Mutant(
        "pspf/store/repair.py:_wants_decision",
        "commit.flags & FLAG_DELETED",
        "False",
        "test_forged_batches.py::test_no_end_is_decided_in_a_topic_that_was_deleted",
    ),
    Mutant(
        "pspf/store/repair.py:_repair",
        "slot.flags & FLAG_DOUBT",
        "False",
        "test_steps_of_recovery.py::test_a_repair_that_dies_or_loses_power_anywhere_can_be_done_again",
    ),
    Mutant(
        "pspf/store/rebuild.py:rebuild",
        "if segment_fault(block):",
        "if False:",
        "test_forged_batches.py::test_settings_are_rebuilt_from_a_header_that_is_whole",
    ),
    # -- what is shown and verified
    Mutant(
        "pspf/store/describe.py:_last_time",
        "not header_fault(data, 0, active.segment_id, commit.durable_last)",
        "True",
        "test_forged_batches.py::test_the_time_in_a_damaged_header_is_not_shown",
    ),
    Mutant(
        "pspf/store/inspect.py:_segment",
        "fault = segment_fault(block)",
        'fault = ""',
        "test_verify.py::test_inspect_shows_what_is_damaged_and_goes_on",
    ),
    Mutant(
        "pspf/store/inspect.py:_batches",
        "fault = b.header_fault(head, 0, segment_id, position)",
        'fault = ""',
        "test_verify.py::test_inspect_shows_what_is_damaged_and_goes_on",
    ),
    Mutant(
        "pspf/store/inspect.py:_row",
        "b.batch_crc_of(head, body) == header.batch_crc",
        "True",
        "test_verify.py::test_inspect_shows_what_is_damaged_and_goes_on",
    ),
    Mutant(
        "pspf/store/verify_partition.py:Walk._header",
        "block is None or segment_fault(block)",
        "block is None",
        "test_forged_batches.py::test_verify_believes_nothing_of_a_damaged_segment_header",
    ),
    Mutant(
        "pspf/store/verify_partition.py:Walk._own_header",
        "fault = segment_fault(block)",
        'fault = ""',
        "test_decision_table_files.py::test_the_header_of_a_sealed_segment_damaged_costs_no_record",
    ),
    Mutant(
        "pspf/store/verify_segment.py:SegmentWalk._over_damage",
        "not header_fault(data, 0, scanner.segment_id, position)",
        "True",
        "test_forged_batches.py::test_verify_takes_no_length_from_a_damaged_header",
    ),
]
