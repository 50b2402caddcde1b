"""The decision table of recovery, a test for each row about a file that is not as it should be: sealed
segments, index, ``commit``, ``start``, settings, leftovers, and what is not ours.
"""

import os
import shutil
from pathlib import Path

import pytest

import pspf
from pspf import errors
from pspf.format.batch import FLAG_CONTROL, HEADER_BYTES, KIND_TABLE, Encoded
from pspf.format.segment import SEGMENT_HEADER_BYTES, segment_name
from pspf.format.slots import Start, fold
from pspf.model import TopicConfig
from pspf.store.verify import DAMAGE
from tests.support_damage import (
    SMALL_SEGMENTS,
    TOPIC,
    all_but,
    append,
    appends_go_on,
    base,
    batches,
    damage,
    filled,
    flip,
    kinds,
    many_segments,
    overwrite,
    partition,
    read_all,
    reopened,
    segments,
    snapshot,
    swap,
    tear,
    topic_id,
    value,
    verify,
)

# -- row: sealed segment short, long, missing, duplicated, overlapping, misplaced


def check_one_damaged(path: Path, kind: str, first: int, behind: int) -> None:
    """Verify names exactly this, reading gives the rest, and appends go on."""
    assert damage(path) == [(kind, first, behind - 1)]
    with reopened(path) as store:
        records, gone = read_all(store)
        assert records == all_but(700, *range(first, behind))
        assert {o for a, b in gone for o in range(a, b + 1)} == set(range(first, behind))
    appends_go_on(path, 700)


def test_a_sealed_segment_that_is_short(store_dir: Path) -> None:
    found = many_segments(store_dir)
    at = batches(found[1])[-2]
    tear(found[1], at.position + 20)
    check_one_damaged(store_dir, "segment-short", at.first, base(found[2]))


def test_a_sealed_segment_that_is_short_by_whole_batches(store_dir: Path) -> None:
    found = many_segments(store_dir)
    at = batches(found[1])[-2]
    tear(found[1], at.position)
    check_one_damaged(store_dir, "segment-short", at.first, base(found[2]))


def test_a_sealed_segment_of_no_bytes(store_dir: Path) -> None:
    found = many_segments(store_dir)
    tear(found[1], 0)
    assert {kind for kind, _, _ in damage(store_dir)} == {"segment-header", "segment-short"}
    with reopened(store_dir) as store:
        records, _ = read_all(store)
        assert records == all_but(700, *range(base(found[1]), base(found[2])))
    appends_go_on(store_dir, 700)


def test_a_sealed_segment_that_is_long(store_dir: Path) -> None:
    found = many_segments(store_dir)
    whole = found[1].stat().st_size
    with found[1].open("ab") as file:
        file.write(b"\xa5" * 1000)
    (finding,) = [f for f in verify(store_dir) if f.severity == DAMAGE]
    assert (finding.kind, finding.position, finding.length) == ("segment-long", whole, 1000)
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(700), [])
    appends_go_on(store_dir, 700)


def test_a_sealed_segment_that_is_missing(store_dir: Path) -> None:
    found = many_segments(store_dir)
    found[1].unlink()
    check_one_damaged(store_dir, "segment-missing", base(found[1]), base(found[2]))


def test_the_first_segment_missing(store_dir: Path) -> None:
    found = many_segments(store_dir)
    found[0].unlink()
    check_one_damaged(store_dir, "segment-missing", 0, base(found[1]))


def test_the_active_segment_missing(store_dir: Path) -> None:
    found = many_segments(store_dir)
    found[-1].unlink()
    assert damage(store_dir) == [("segment-missing", base(found[-1]), 699)]
    with reopened(store_dir) as store:
        records, _ = read_all(store)
        assert records == all_but(700, *range(base(found[-1]), 700))
    appends_go_on(store_dir, 700)
    assert damage(store_dir) == [("gap", base(found[-1]), 699)]


def test_all_segments_missing_is_never_an_empty_log(store_dir: Path) -> None:
    for segment in many_segments(store_dir):
        segment.unlink()
    assert damage(store_dir) == [("segment-missing", 0, 699)]
    appends_go_on(store_dir, 700)
    assert ("segment-missing", 0, 699) in damage(store_dir)


def test_a_sealed_segment_that_is_duplicated(store_dir: Path) -> None:
    """A copy under another base: it is not what its name says, and hides nothing."""
    found = many_segments(store_dir)
    middle = batches(found[1])[5].first
    shutil.copyfile(found[1], partition(store_dir) / segment_name(middle))
    kinds_of = {f.kind for f in verify(store_dir) if f.severity == DAMAGE}
    assert "segment-misplaced" in kinds_of
    with reopened(store_dir) as store:
        records, gone = read_all(store)
        lost = {o for a, b in gone for o in range(a, b + 1)}
        assert records == all_but(700, *lost)
        assert not lost - set(range(base(found[1]), base(found[2])))
    (partition(store_dir) / segment_name(middle)).unlink()
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(700), [])


def test_sealed_segments_that_overlap(store_dir: Path) -> None:
    """The predecessor goes on past the base of the next: as if a cut log's old segment had come back."""
    found = many_segments(store_dir)
    longer = found[0].read_bytes()
    extra = store_dir.with_name("other")
    filled(extra, 3)
    with found[0].open("ab") as file:
        file.write(segments(extra)[0].read_bytes()[SEGMENT_HEADER_BYTES:])
    assert {kind for kind, _, _ in damage(store_dir)} == {"segment-long"}
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(700), [])
    found[0].write_bytes(longer)
    # And a segment that begins where another one has not ended.
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(700), [])


def test_misplaced_segments_of_one_partition(store_dir: Path) -> None:
    found = many_segments(store_dir)
    swap(found[1], found[2])
    assert {kind for kind, _, _ in damage(store_dir)} == {"segment-misplaced"}
    gone = range(base(found[1]), base(found[3]))
    with reopened(store_dir) as store:
        records, _ = read_all(store)
        assert records == all_but(700, *gone)
    appends_go_on(store_dir, 700)


def test_a_damaged_control_batch_at_the_end_of_a_sealed_segment_costs_no_record(store_dir: Path) -> None:
    filled(store_dir, 100, SMALL_SEGMENTS)
    with reopened(store_dir) as store:
        table = Encoded([b"\0"], 0, 0, FLAG_CONTROL, KIND_TABLE)
        store.partition_writer(store.topic(TOPIC), 0).append(table)
        store.append_many(TOPIC, [value(n) for n in range(100, 250)])
    sealed = segments(store_dir)[0]
    last = batches(sealed)[-1]
    assert (last.first, base(segments(store_dir)[1])) == (100, 100), "this test needs a roll behind the table"
    for place in (30, HEADER_BYTES):
        flip(sealed, last.position + place)
        assert [(first, behind) for _, first, behind in damage(store_dir)] == [(-1, -1)]
        with reopened(store_dir) as store:
            assert read_all(store) == (all_but(250), [])
        flip(sealed, last.position + place)


def test_a_stray_copy_just_before_a_boundary(store_dir: Path) -> None:
    """It hides the last record of the segment before it, which is named until the copy is gone."""
    found = many_segments(store_dir)
    hidden = base(found[2]) - 1
    stray = partition(store_dir) / segment_name(hidden)
    shutil.copyfile(found[2], stray)
    assert "segment-misplaced" in {kind for kind, _, _ in damage(store_dir)}
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(700, hidden), [(hidden, hidden)])
    stray.unlink()
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(700), [])


def test_misplaced_segments_whose_headers_are_damaged_too_give_no_record_twice(store_dir: Path) -> None:
    """Nothing but the offsets in the batches says where they belong."""
    found = many_segments(store_dir)
    flip(found[0], 100)
    flip(found[2], 100)
    swap(found[0], found[2])
    flip(found[2], batches(found[2])[1].position + HEADER_BYTES + 30)
    with reopened(store_dir) as store:
        records, gone = read_all(store)
    assert records.items() <= all_but(700).items()
    lost = {o for a, b in gone for o in range(a, b + 1)}
    assert records.keys() | lost == set(range(700)) and not records.keys() & lost
    assert set(range(base(found[1]), base(found[2]))) <= records.keys()
    assert set(range(base(found[3]), 700)) <= records.keys()


def test_a_segment_of_another_topic_gives_no_record(store_dir: Path) -> None:
    filled(store_dir, 5)
    with pspf.open(str(store_dir)) as store:
        store.create_topic("other")
        for number in range(5):
            store.append("other", b"of another topic %d" % number)
    swap(segments(store_dir)[0], segments(store_dir, "other")[0])
    assert {kind for kind, _, _ in damage(store_dir)} >= {"segment-foreign"}
    with reopened(store_dir) as store:
        for topic in (TOPIC, "other"):
            records, gone = read_all(store, topic)
            assert records == {}
            assert gone


def test_a_segment_of_another_partition_gives_no_record(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.create_topic(TOPIC, TopicConfig(partitions=2))
        for _ in range(5):
            store.append(TOPIC, b"of 0", partition=0)
            store.append(TOPIC, b"of 1", partition=1)
    one = store_dir / "topics" / TOPIC / "1" / segment_name(0)
    swap(segments(store_dir)[0], one)
    assert {kind for kind, _, _ in damage(store_dir)} >= {"segment-misplaced"}
    with reopened(store_dir) as store:
        records, gone = read_all(store)
        assert records == {} and gone


def test_the_header_of_a_sealed_segment_damaged_costs_no_record(store_dir: Path) -> None:
    found = many_segments(store_dir)
    flip(found[1], 100)
    assert {kind for kind, _, _ in damage(store_dir)} == {"segment-header"}
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(700), [])
    appends_go_on(store_dir, 700)


# -- row: index missing, short, foreign, damaged, newer than the log


@pytest.mark.parametrize("fault", ["missing", "short", "foreign", "damaged", "newer", "of another length"])
def test_an_index_is_rebuilt_and_never_an_error(store_dir: Path, fault: str) -> None:
    with pspf.open(str(store_dir)) as store:
        for start in range(0, 40_000, 4000):
            store.append_many(TOPIC, [value(n) for n in range(start, start + 4000)])
    (segment,) = segments(store_dir)
    index = segment.with_suffix(".index")
    good = index.read_bytes()
    assert len(good) > 400
    if fault == "missing":
        index.unlink()
    elif fault == "short":
        tear(index, 80)
    elif fault == "foreign":
        other = store_dir.with_name("other")
        with pspf.open(str(other)) as store:
            store.append_many(TOPIC, [b"x" * 1000] * 1000)
        index.write_bytes(segments(other)[0].with_suffix(".index").read_bytes())
    elif fault == "damaged":
        flip(index, 41)
    elif fault == "newer":
        # It knows of batches that the log does not have any more.
        cut = batches(segment)[3]
        tear(segment, cut.position)
        overwrite(partition(store_dir) / "commit", 0, bytes(1024))
    else:
        index.write_bytes(good + b"abc")
    expected = 40_000 if fault != "newer" else cut.first
    with reopened(store_dir) as store:
        reader = store.reader(TOPIC, 0)
        for at in (0, 1234, expected - 1):
            reader.seek(at)
            first = reader.read()[0]
            assert first.header.base_offset <= at < first.header.next_offset
        reader.close()
        report = store.verify()
        assert report.ok
        if fault != "newer":
            assert [f.kind for f in report.findings] == ["index"]
            assert index.read_bytes() == good
            assert store.verify().findings == []
        assert len(read_all(store)[0]) == expected


# -- row: commit damaged, missing, older than the log


@pytest.mark.parametrize("fault", ["missing", "empty", "zeros", "garbage", "of another topic"])
@pytest.mark.parametrize("first", ["reader", "writer"])
def test_commit_is_derived_again(store_dir: Path, fault: str, first: str) -> None:
    filled(store_dir, 10)
    commit = partition(store_dir) / "commit"
    if fault == "missing":
        commit.unlink()
    elif fault == "of another topic":
        other = store_dir.with_name("other")
        filled(other, 3)
        commit.write_bytes((partition(other) / "commit").read_bytes())
    else:
        commit.write_bytes({"empty": b"", "zeros": bytes(1024), "garbage": b"\xa5" * 1024}[fault])
    assert [kind for kind, _, _ in damage(store_dir)] == ["commit"]
    if first == "reader":
        with reopened(store_dir) as store:
            assert read_all(store) == (all_but(10), [])
    appends_go_on(store_dir, 10)
    assert damage(store_dir) == []


def test_one_damaged_slot_of_commit_is_no_damage(store_dir: Path) -> None:
    filled(store_dir, 10)
    for position in (0, 512):
        copy = store_dir.with_name(f"copy{position}")
        shutil.copytree(store_dir, copy)
        flip(partition(copy) / "commit", position + 20)
        assert damage(copy) == [] and "commit" in kinds(copy)
        with reopened(copy) as store:
            assert read_all(store) == (all_but(10), [])
        appends_go_on(copy, 10)


def test_a_missing_lock_is_made_again(store_dir: Path) -> None:
    filled(store_dir, 10)
    (partition(store_dir) / "lock").unlink()
    assert damage(store_dir) == []
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(10), [])
    appends_go_on(store_dir, 10)


# -- row: start below or above the first segment


def set_start(path: Path, log_start: int, first_base: int) -> None:
    slot = Start(4, 1, log_start, first_base, fold(topic_id(path)))
    (partition(path) / "start").write_bytes(slot.encode().ljust(1024, b"\0"))


def test_start_below_the_first_segment_is_loss_and_named(store_dir: Path) -> None:
    found = many_segments(store_dir)
    found[0].unlink()
    found[1].unlink()
    set_start(store_dir, 10, 0)
    assert damage(store_dir) == [("segment-missing", 10, base(found[2]) - 1)]
    with reopened(store_dir) as store:
        records, gone = read_all(store)
        assert records == all_but(700, *range(base(found[2])))
        assert gone == [(10, base(found[2]) - 1)]


def test_start_above_the_first_segment_hides_what_retention_has_not_removed_yet(store_dir: Path) -> None:
    found = many_segments(store_dir)
    set_start(store_dir, base(found[2]), base(found[2]))
    assert damage(store_dir) == [] and "leftover" in kinds(store_dir)
    with reopened(store_dir) as store:
        assert store.reader(TOPIC, 0).start() == base(found[2])
        assert read_all(store) == (all_but(700, *range(base(found[2]))), [])
    appends_go_on(store_dir, 700)


@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_without_start_the_log_begins_with_its_first_segment(store_dir: Path, how: str) -> None:
    filled(store_dir, 10)
    start = partition(store_dir) / "start"
    if how == "missing":
        start.unlink()
    else:
        start.write_bytes(b"\xa5" * 1024)
    assert [kind for kind, _, _ in damage(store_dir)] == ["start"]
    with reopened(store_dir) as store:
        assert read_all(store) == (all_but(10), [])
    appends_go_on(store_dir, 10)


# -- row: topic.toml damaged


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "cut"])
def test_topic_settings_are_rebuilt_from_a_segment(store_dir: Path, how: str) -> None:
    filled(store_dir, 10, TopicConfig(segment_bytes=1 << 20))
    settings = store_dir / "topics" / TOPIC / "topic.toml"
    if how == "missing":
        settings.unlink()
    else:
        data = {"empty": b"", "garbage": b"\xa5" * 200, "cut": settings.read_bytes()[:60]}[how]
        settings.write_bytes(data)
    assert [kind for kind, _, _ in damage(store_dir)] == ["topic-settings"]
    told: list[str] = []
    with reopened(store_dir, told.append) as store:
        assert store.topic(TOPIC).config.segment_bytes == 1 << 20
        assert read_all(store) == (all_but(10), [])
    assert any("topic.toml" in line for line in told)
    appends_go_on(store_dir, 10)
    assert damage(store_dir) == []


def test_topic_settings_changed_by_hand_are_taken_in_on_request_only(store_dir: Path) -> None:
    filled(store_dir, 10)
    settings = store_dir / "topics" / TOPIC / "topic.toml"
    settings.write_bytes(
        settings.read_bytes().replace(b"segment_bytes = 67108864", b"segment_bytes = 1048576")
    )
    assert [kind for kind, _, _ in damage(store_dir)] == ["topic-settings"]
    with reopened(store_dir) as store:
        with pytest.raises(errors.Damaged) as refused:
            store.reader(TOPIC, 0)
        assert "--from" in refused.value.hint
        store.alter_topic_from(TOPIC, str(settings))
        assert store.topic(TOPIC).config.segment_bytes == 1 << 20
        assert read_all(store) == (all_but(10), [])
    assert damage(store_dir) == []


@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_store_settings_are_made_again(store_dir: Path, how: str) -> None:
    filled(store_dir, 10)
    settings = store_dir / "store.toml"
    if how == "missing":
        settings.unlink()
    else:
        settings.write_bytes(b"\xa5" * 100)
    with pspf.open(str(store_dir), create=False, read_only=True) as store:
        assert [f.kind for f in store.verify().findings] == ["store-settings"]
        assert read_all(store) == (all_but(10), [])
    appends_go_on(store_dir, 10)
    assert damage(store_dir) == []


# -- row: half-created or half-deleted topic or segment


def test_a_half_created_topic_is_no_topic_and_goes_away(store_dir: Path) -> None:
    filled(store_dir, 3)
    half = store_dir / "topics" / (".new-" + "ab" * 16)
    half.mkdir()
    (half / "topic.toml").write_bytes(b"format_version = 1\n")
    assert damage(store_dir) == [] and "leftover" in kinds(store_dir)
    with reopened(store_dir) as store:
        assert store.topics() == [TOPIC]
        store.create_topic("another")
    assert not half.exists()


def test_a_half_deleted_topic_is_no_topic_and_goes_away(store_dir: Path) -> None:
    filled(store_dir, 3)
    filled(store_dir, 3, topic="doomed")
    half = store_dir / "topics" / (".del-" + "ab" * 16)
    (store_dir / "topics" / "doomed").rename(half)
    assert damage(store_dir) == [] and "leftover" in kinds(store_dir)
    with reopened(store_dir) as store:
        assert store.topics() == [TOPIC]
        store.create_topic("another")
    assert not half.exists()


def test_a_half_created_partition_is_no_partition(store_dir: Path) -> None:
    filled(store_dir, 3)
    half = store_dir / "topics" / TOPIC / (".new-" + "ab" * 8)
    half.mkdir()
    (half / segment_name(0)).write_bytes(b"")
    assert damage(store_dir) == [] and "leftover" in kinds(store_dir)
    appends_go_on(store_dir, 3)


def test_a_half_created_segment_is_replaced_by_the_next_roll(store_dir: Path) -> None:
    many_segments(store_dir)
    (partition(store_dir) / "roll.tmp").write_bytes(b"half a segment")
    assert damage(store_dir) == [] and "leftover" in kinds(store_dir)
    count = len(segments(store_dir))
    with reopened(store_dir) as store:
        append(store, 200)
    assert len(segments(store_dir)) > count
    assert "leftover" not in kinds(store_dir) and damage(store_dir) == []


def test_a_rolled_segment_that_nobody_published_is_followed_by_name(store_dir: Path) -> None:
    """Killed between the rename of the new segment and the write of ``commit``."""
    filled(store_dir, 120, SMALL_SEGMENTS)
    path = partition(store_dir)
    before = (path / "commit").read_bytes()
    with reopened(store_dir) as store:
        store.topic(TOPIC)
        while len(segments(store_dir)) < 2:
            before = (path / "commit").read_bytes()
            append(store, 1)
        copy = store_dir.with_name("killed")
        shutil.copytree(store_dir, copy)
    _, new = segments(copy)
    tear(new, SEGMENT_HEADER_BYTES)
    (partition(copy) / "commit").write_bytes(before)
    assert damage(copy) == []
    appends_go_on(copy, base(new))
    assert damage(copy) == []


# -- row: unknown version, foreign files, wrong owner or mode


def newer_slot(data: bytes) -> bytes:
    """Both slots with format version 2 and a CRC that holds."""
    from zlib import crc32

    out = bytearray(data)
    for at in (0, 512):
        out[at + 15] = 2
        out[at + 60 : at + 64] = crc32(out[at : at + 60]).to_bytes(4, "little")
    return bytes(out)


@pytest.mark.parametrize("name", ["commit", "segment", "topic.toml", "store.toml"])
def test_a_newer_version_is_refused_by_name(store_dir: Path, name: str) -> None:
    filled(store_dir, 3)
    before = {}
    if name == "commit":
        file = partition(store_dir) / "commit"
        file.write_bytes(newer_slot(file.read_bytes()))
    elif name == "segment":
        from zlib import crc32

        (file,) = segments(store_dir)
        block = bytearray(file.read_bytes()[:4096])
        block[8] = 2
        block[4092:] = crc32(block[:4092]).to_bytes(4, "little")
        overwrite(file, 0, bytes(block))
    else:
        from pspf.format.settings import decode, encode

        file = store_dir / name if name == "store.toml" else store_dir / "topics" / TOPIC / name
        file.write_bytes(encode({**decode(file.read_bytes()), "format_version": 2}))
    before = snapshot(store_dir)
    with pytest.raises(errors.NewerFormat) as refused, reopened(store_dir) as store:
        store.append(TOPIC, b"x")
    assert refused.value.exit_code == 78
    with pytest.raises(errors.NewerFormat), reopened(store_dir) as store:
        read_all(store)
    assert snapshot(store_dir) == before
    if name != "store.toml":
        assert "newer-version" in {kind for kind, _, _ in damage(store_dir)}


def test_foreign_files_are_named_and_left_alone(store_dir: Path) -> None:
    filled(store_dir, 3)
    for place in (store_dir, store_dir / "topics", store_dir / "topics" / TOPIC, partition(store_dir)):
        (place / "notes.txt").write_text("mine")
    (partition(store_dir) / "link").symlink_to("/etc/passwd")
    found = [f for f in verify(store_dir) if f.kind == "foreign-file"]
    assert len(found) == 5 and damage(store_dir) == []
    appends_go_on(store_dir, 3)
    assert (store_dir / "notes.txt").read_text() == "mine"


def test_a_symlink_in_the_place_of_a_segment_is_not_followed(store_dir: Path) -> None:
    filled(store_dir, 3)
    (segment,) = segments(store_dir)
    target = store_dir.with_name("target")
    segment.rename(target)
    segment.symlink_to(target)
    before = target.read_bytes()
    assert "unreadable" in {kind for kind, _, _ in damage(store_dir)}
    with pytest.raises(errors.Error), reopened(store_dir) as store:
        store.append(TOPIC, b"x")
    assert target.read_bytes() == before


def test_a_wrong_mode_is_named(store_dir: Path) -> None:
    filled(store_dir, 3)
    segments(store_dir)[0].chmod(0o644)
    (found,) = verify(store_dir)
    assert (found.kind, found.severity) == ("owner-mode", "note") and "0644" in found.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_wrong_owner_is_named(store_dir: Path) -> None:
    filled(store_dir, 3)
    os.chown(segments(store_dir)[0], 12345, 12345)
    (found,) = verify(store_dir)
    assert found.kind == "owner-mode" and "12345" in found.detail
