"""The decision table of recovery, a test for each row about the end of a log, on real directories; its pure
function; and ``repair``. The other rows: test_decision_table_files.py.

A crash is a copy of the directory of a store that is still open: locks and memory are gone, the bytes are
there.
"""

from pathlib import Path

import pytest

import pspf
from pspf import errors
from pspf.format.batch import HEADER_BYTES
from pspf.format.segment import parse_segment, segment_name
from pspf.format.slots import FLAG_DOUBT, fold, newest_commit
from pspf.log.decision import CLEAN, DOUBT, LOST, TORN, decide
from pspf.model import TopicConfig
from pspf.store.verify import DAMAGE
from tests.support_damage import (
    TOPIC,
    all_but,
    append,
    appends_go_on,
    batches,
    crashed,
    damage,
    filled,
    flip,
    kinds,
    overwrite,
    partition,
    quarantined,
    read_all,
    recovery_run_twice_changes_nothing,
    reopened,
    segments,
    snapshot,
    tear,
    topic_id,
    value,
    verify,
)

# -- the pure function


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_evidence_above_the_last_valid_batch_is_loss_whatever_is_found_there(zero: bool, known: bool) -> None:
    assert decide(11, 10, zero, known) == LOST


@pytest.mark.parametrize("evidence", [0, 9, 10])
@pytest.mark.parametrize("known", [True, False])
def test_zeros_behind_the_last_valid_batch_are_the_end(evidence: int, known: bool) -> None:
    assert decide(evidence, 10, True, known) == CLEAN


@pytest.mark.parametrize("evidence", [0, 9, 10])
def test_bytes_behind_a_known_end_are_a_torn_tail(evidence: int) -> None:
    assert decide(evidence, 10, False, True) == TORN


@pytest.mark.parametrize("evidence", [0, 9, 10])
def test_bytes_behind_an_unknown_end_are_in_doubt(evidence: int) -> None:
    assert decide(evidence, 10, False, False) == DOUBT


# -- row: E above the last valid batch


@pytest.mark.parametrize("how", ["zeroed", "garbage", "cut"])
def test_acknowledged_records_gone_from_the_end_are_named_and_never_cut(store_dir: Path, how: str) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    first = batches(segment)[7]
    size = segment.stat().st_size
    if how == "cut":
        tear(segment, first.position)
    else:
        fill = b"\0" if how == "zeroed" else b"\xa5"
        overwrite(segment, first.position, fill * (size - first.position))
    found = segment.read_bytes()
    assert [(a, b) for _, a, b in damage(store_dir)] == [(7, 9)]

    told: list[str] = []
    with reopened(store_dir, told.append) as store:
        assert store.append(TOPIC, value(10)).first == 10
        assert read_all(store) == (all_but(11, 7, 8, 9), [(7, 9)])
    assert any("records 7 to 9" in line for line in told)
    assert segment.read_bytes() == found  # sealed as it is
    assert [s.name for s in segments(store_dir)] == [segment_name(0), segment_name(10)]
    header = parse_segment(segments(store_dir)[1].read_bytes())
    assert (header.prev_end, header.base) == (7, 10)  # the gap is recorded
    assert damage(store_dir) == [("gap", 7, 9)]
    recovery_run_twice_changes_nothing(store_dir)


def test_on_damage_stop_appends_wait_for_repair_and_reads_do_not(store_dir: Path) -> None:
    filled(store_dir, 10, TopicConfig(on_damage="stop"))
    (segment,) = segments(store_dir)
    overwrite(segment, batches(segment)[7].position, bytes(5000))
    for _ in range(2):  # it stays so however often it is opened
        with reopened(store_dir) as store:
            with pytest.raises(errors.Error) as refused:
                store.append(TOPIC, b"x")
            assert "repair" in refused.value.hint + str(refused.value)
            assert read_all(store) == (all_but(10, 7, 8, 9), [(7, 9)])
    assert "doubt" in kinds(store_dir)

    with reopened(store_dir) as store:
        before = snapshot(store_dir)
        planned = store.repair(TOPIC, 0, dry_run=True)
        assert snapshot(store_dir) == before
        assert any("records 7 to 9" in line for line in planned.actions) and not planned.done
        report = store.repair(TOPIC, 0)
        assert report.done
        assert any("records 7 to 9" in line for line in report.actions)
        assert store.append(TOPIC, value(10)).first == 10
        assert read_all(store) == (all_but(11, 7, 8, 9), [(7, 9)])
    assert damage(store_dir) == [("gap", 7, 9)]


def test_on_damage_stop_without_commit_keeps_the_rest_readable(store_dir: Path) -> None:
    filled(store_dir, 10, TopicConfig(on_damage="stop"))
    (segment,) = segments(store_dir)
    # The last header proves that offset 8 was acknowledged, and its body is damaged too.
    flip(segment, batches(segment)[8].position + 60)
    flip(segment, batches(segment)[9].position + HEADER_BYTES + 30)
    overwrite(partition(store_dir) / "commit", 0, bytes(1024))
    for _ in range(2):  # once derived by a reader, once as a writer finds it
        with reopened(store_dir) as store:
            assert read_all(store)[0] == all_but(8)
            with pytest.raises(errors.Error):
                store.append(TOPIC, b"x")


def test_the_durable_end_in_a_later_header_is_evidence_where_commit_is_gone(store_dir: Path) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    flip(segment, batches(segment)[4].position + 60)
    (partition(store_dir) / "commit").unlink()
    with reopened(store_dir) as store:
        assert store.append(TOPIC, value(10)).first == 10
        assert read_all(store) == (all_but(11, 4), [(4, 4)])
    assert [(a, b) for _, a, b in damage(store_dir)] == [(4, 4)]


def test_every_header_behind_a_break_is_evidence_not_only_the_first(store_dir: Path) -> None:
    """Two neighbours damaged and ``commit`` gone: the whole batch behind them proves that they were
    acknowledged.
    """
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    flip(segment, batches(segment)[7].position + 60)
    flip(segment, batches(segment)[8].position + HEADER_BYTES + 30)
    overwrite(partition(store_dir) / "commit", 0, bytes(1024))
    with reopened(store_dir) as store:
        assert store.append(TOPIC, value(10)).first == 10
        assert read_all(store)[0] == all_but(11, 7, 8)


def test_an_end_that_nobody_knows_waits_for_repair(store_dir: Path) -> None:
    """Both slots of ``commit`` damaged, and the last batch too: nothing says whether it was acknowledged."""
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    last = batches(segment)[9]
    flip(segment, last.position + HEADER_BYTES + 30)
    overwrite(partition(store_dir) / "commit", 0, b"\xff" * 1024)
    torn = segment.read_bytes()[last.position :]
    assert {"doubt", "commit"} <= {kind for kind, _, _ in damage(store_dir)}

    for _ in range(2):
        with reopened(store_dir) as store:
            with pytest.raises(errors.Error) as refused:
                store.append(TOPIC, b"x")
            assert "repair" in refused.value.hint + str(refused.value)
            assert read_all(store) == (all_but(9), [])
    assert segment.read_bytes()[last.position :] == torn  # nothing is cut
    commit = newest_commit((partition(store_dir) / "commit").read_bytes(), fold(topic_id(store_dir)))
    assert commit is not None and commit.flags & FLAG_DOUBT

    with reopened(store_dir) as store:
        report = store.repair(TOPIC, 0)
        assert report.done
        assert store.repair(TOPIC, 0).actions == []
        assert store.append(TOPIC, value(9)).first == 9
        assert read_all(store) == (all_but(10), [])
    assert quarantined(store_dir) == [torn]
    assert segment.read_bytes()[last.position :] == torn
    assert damage(store_dir) == []
    recovery_run_twice_changes_nothing(store_dir)


def test_repair_killed_behind_the_new_segment_is_finished_by_the_next_opener(store_dir: Path) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    flip(segment, batches(segment)[9].position + HEADER_BYTES + 30)
    overwrite(partition(store_dir) / "commit", 0, b"\xff" * 1024)
    with reopened(store_dir) as store:
        store.partition_writer(store.topic(TOPIC), 0)
    in_doubt = (partition(store_dir) / "commit").read_bytes()
    with reopened(store_dir) as store:
        store.repair(TOPIC, 0)
    (partition(store_dir) / "commit").write_bytes(in_doubt)
    appends_go_on(store_dir, 9)
    assert damage(store_dir) == []


def test_repair_does_not_wait_for_writers(store_dir: Path) -> None:
    filled(store_dir, 3, TopicConfig(on_damage="stop"))
    with reopened(store_dir) as writing, reopened(store_dir) as store:
        append(writing, 1)
        with pytest.raises(errors.Busy) as busy:
            store.repair(TOPIC, 0)
        assert busy.value.exit_code == 75


def test_repair_of_a_whole_log_finds_nothing_to_do(store_dir: Path) -> None:
    filled(store_dir, 3)
    before = snapshot(store_dir)
    with reopened(store_dir) as store:
        for dry_run in (True, False):
            report = store.repair(TOPIC, 0, dry_run=dry_run)
            assert (report.actions, report.done) == ([], False)
    assert snapshot(store_dir) == before


def test_repair_names_damage_that_it_leaves_alone(store_dir: Path) -> None:
    filled(store_dir, 3)
    flip(segments(store_dir)[0], batches(segments(store_dir)[0])[1].position + HEADER_BYTES + 25)
    with reopened(store_dir) as store:
        report = store.repair(TOPIC, 0)
    assert not report.done and report.actions == []
    assert [(f.first_offset, f.last_offset) for f in report.left] == [(1, 1)]


# -- row: only zeros or nothing in the rest of the allocated file


def test_zeros_written_ahead_by_a_killed_writer_are_the_end_of_the_log(store_dir: Path) -> None:
    copy = crashed(store_dir, 10)
    (segment,) = segments(copy)
    end = batches(segment)[-1].position + batches(segment)[-1].size
    assert segment.stat().st_size > end, "this test needs preallocated zeros"
    assert damage(copy) == []
    appends_go_on(copy, 10)
    assert damage(copy) == [] and quarantined(copy) == []


# -- row: anything else past E in the last segment


@pytest.mark.parametrize("keep", ["header", "half a header", "half a body", "one byte"])
def test_a_torn_tail_goes_to_quarantine_and_is_cut_by_a_writer_only(store_dir: Path, keep: str) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    last = batches(segment)[-1]
    whole = segment.read_bytes()
    # A batch that was being written: never acknowledged, `commit` does not know of it.
    length = {"header": 104, "half a header": 50, "half a body": last.size // 2, "one byte": 1}[keep]
    torn = whole[last.position : last.position + length]
    with segment.open("ab") as file:
        file.write(torn)
    assert damage(store_dir) == [] and "unsettled" in kinds(store_dir)

    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(10), [])
        assert segment.read_bytes() == whole + torn  # a reader cuts nothing
    told: list[str] = []
    with reopened(store_dir, told.append) as store:
        assert store.append(TOPIC, value(10)).first == 10
        assert read_all(store) == (all_but(11), [])
    assert quarantined(store_dir) == [torn]
    assert any(f"{length} bytes" in line for line in told)
    assert damage(store_dir) == [] and "quarantine" in kinds(store_dir)
    recovery_run_twice_changes_nothing(store_dir)


def test_whole_batches_behind_an_old_commit_are_adopted(store_dir: Path) -> None:
    filled(store_dir, 5)
    old = (partition(store_dir) / "commit").read_bytes()
    with reopened(store_dir) as store:
        append(store, 5)
    (partition(store_dir) / "commit").write_bytes(old)
    assert damage(store_dir) == []
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(10), [])
        assert store.append(TOPIC, value(10)).first == 10


def test_a_read_only_store_is_read_to_the_published_end_and_says_what_is_unsettled(store_dir: Path) -> None:
    filled(store_dir, 5)
    old = (partition(store_dir) / "commit").read_bytes()
    with reopened(store_dir) as store:
        append(store, 5)
    (partition(store_dir) / "commit").write_bytes(old)
    before = snapshot(store_dir)
    with pspf.open(str(store_dir), create=False, read_only=True) as store:
        assert read_all(store) == (all_but(5), [])
        found = store.verify().findings
    assert [(f.kind, f.severity) for f in found] == [("unsettled", "note")]
    assert found[0].length == sum(b.size for b in batches(segments(store_dir)[0])[5:])
    assert snapshot(store_dir) == before


# -- row: header fine, body damaged, later batches fine


def test_a_damaged_body_costs_its_batch_and_the_next_is_found_by_length(store_dir: Path) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    hit = batches(segment)[4]
    flip(segment, hit.position + HEADER_BYTES + 50)
    (found,) = [f for f in verify(store_dir) if f.severity == DAMAGE]
    assert (found.kind, found.topic, found.partition) == ("batch-body", TOPIC, 0)
    assert (found.first_offset, found.last_offset) == (4, 4)
    assert (found.path, found.position, found.length) == (str(segment), hit.position, hit.size)
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(10, 4), [(4, 4)])
    appends_go_on(store_dir, 10)


def test_a_damaged_body_of_the_last_batch_is_damage_not_a_torn_tail(store_dir: Path) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    flip(segment, batches(segment)[9].position + HEADER_BYTES + 50)
    appends_go_on(store_dir, 10)
    with reopened(store_dir) as store:
        assert read_all(store) == ({**all_but(11, 9)}, [(9, 9)])
    assert quarantined(store_dir) == []


# -- row: header damaged


@pytest.mark.parametrize("count", [1, 3])
def test_behind_damaged_headers_the_next_valid_one_says_how_much_is_affected(
    store_dir: Path, count: int
) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    hit = batches(segment)[4 : 4 + count]
    for batch in hit:
        flip(segment, batch.position + 30)
    (found,) = [f for f in verify(store_dir) if f.severity == DAMAGE]
    assert (found.kind, found.first_offset, found.last_offset) == ("batch-header", 4, 3 + count)
    assert (found.position, found.length) == (hit[0].position, sum(b.size for b in hit))
    with reopened(store_dir) as store:
        records, gone = read_all(store)
        assert records == all_but(10, *range(4, 4 + count))
        assert {o for a, b in gone for o in range(a, b + 1)} == set(range(4, 4 + count))
    appends_go_on(store_dir, 10)
