"""Producers behind a failed sync, damage, a full disk, a jump of the clock: no repeat is ever appended twice.

What a partition has forgotten of a producer is appended a second time, and nobody notices. So each way to a
new segment, and each way in which the table of producers can be damaged, stands here.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from pspf import errors
from pspf.format.batch import FLAG_CONTROL, HEADER_BYTES, KIND_PRODUCERS, KIND_TABLE, NO_TABLE, parse_header
from pspf.format.producers import id_of
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.log import producers
from pspf.log.producers import known_producer, load
from pspf.log.writer import PartitionWriter
from pspf.model import TopicConfig
from pspf.store.feed import FeedOptions, feed
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing import SimDisk
from pspf.testing.ledger import read_all
from tests.support_damage import batches_of

STORE = "/store"
PARTITION = f"{STORE}/topics/t/0/"
DAY = 24 * 3600 * 10**9
SMALL = TopicConfig(segment_bytes=64 << 10)


def opened(
    disk: SimDisk, config: TopicConfig | None = None, tell: Callable[[str], None] | None = None
) -> Store:
    store = open_store(STORE, disk=disk, tell=tell or (lambda _: None))
    if store.find_topic("t") is None:
        store.create_topic("t", config)
    return store


def put(store: Store, sequence: int, producer: str = "p") -> bool:
    """Whether it was there already."""
    return store.append("t", f"{producer}{sequence}", producer=producer, sequence=sequence).duplicate


def writer_of(store: Store) -> PartitionWriter:
    return store.partition_writer(store.topic("t"), 0)


def values(store: Store) -> list[bytes | None]:
    return [value for _, value in read_all(store, "t", 1)[0]]


def segments(disk: SimDisk) -> list[str]:
    return sorted(name for name in disk.tree() if name.startswith(PARTITION) and name.endswith(".log"))


def content(disk: SimDisk, name: str) -> bytes:
    data = disk.tree()[name]
    assert data is not None
    return data


def flip(disk: SimDisk, name: str, position: int) -> None:
    data = bytearray(content(disk, name))
    data[position] ^= 1
    disk.plant(name, bytes(data))


def tables(disk: SimDisk, name: str) -> list[int]:
    """Positions of the tables in a segment."""
    data = content(disk, name)
    return [b.position for b in batches_of(data) if parse_header(data, b.position).kind == KIND_TABLE]


def roll(store: Store) -> None:
    """Records of nobody until another segment begins, and one more."""
    base = writer_of(store).end.segment.base
    while writer_of(store).end.segment.base == base:
        store.append("t", b"x" * 20_000)


def poisoned(disk: SimDisk, store: Store) -> None:
    disk.fail("fdatasync", error=errno.EIO, lies="clean")
    with pytest.raises(errors.Poisoned):
        put(store, 3)
    store.close()


def three(disk: SimDisk, config: TopicConfig | None = None) -> Store:
    store = opened(disk, config)
    assert [put(store, n) for n in range(3)] == [False] * 3
    return store


# -- each way to a new segment


def test_a_repeat_is_recognised_behind_a_heal() -> None:
    disk = SimDisk()
    poisoned(disk, three(disk))
    store = opened(disk.process())
    assert [put(store, n) for n in (3, 0, 1, 2, 3)] == [False, True, True, True, True]
    assert values(store) == [b"p0", b"p1", b"p2", b"p3"]
    assert len(segments(disk)) == 2
    assert store.verify().ok


def test_a_repeat_is_recognised_behind_the_heal_of_a_segment_that_held_only_its_table() -> None:
    """The healed segment takes the name of the old one, and its table must not go with it."""
    disk = SimDisk()
    store = three(disk, SMALL)
    disk.fail("fdatasync", error=errno.EIO, name="commit")
    with pytest.raises(errors.Poisoned):
        roll(store)
    store.close()
    assert tables(disk, segments(disk)[-1]) == [SEGMENT_HEADER_BYTES]
    store = opened(disk.process())
    assert [put(store, n) for n in (0, 2, 3)] == [True, True, False]


def test_a_heal_that_was_killed_before_it_was_published_keeps_its_table() -> None:
    disk = SimDisk()
    poisoned(disk, three(disk))
    process = disk.process()
    process.fail("pwrite", error=errno.EIO, name="commit")
    with pytest.raises(errors.IOFailed):
        writer_of(opened(process))
    for state in disk.crash_states(3, 20):
        store = opened(state)
        assert [put(store, n) for n in (0, 2)] == [True, True]


def test_an_input_fed_again_behind_a_heal_appends_nothing(tmp_path: Path) -> None:
    disk = SimDisk()
    file = tmp_path / "input"
    file.write_text("".join(f"line {n}\n" for n in range(1_000)))
    store = opened(disk)
    feed(store, "t", [str(file)], FeedOptions(producer="p"))
    disk.fail("fdatasync", error=errno.EIO)
    with pytest.raises(errors.Poisoned):
        store.append("t", b"of somebody else")
    store.close()
    store = opened(disk.process())
    assert feed(store, "t", [str(file)], FeedOptions(producer="p")).skipped == 1_000
    assert len(values(store)) == 1_000


def lost(disk: SimDisk, config: TopicConfig) -> None:
    """The newest acknowledged record is gone from the end of the segment."""
    store = three(disk, config)
    store.append("t", b"the last one")
    store.close()
    (name,) = segments(disk)
    disk.plant(name, content(disk, name)[:-60])


def test_a_repeat_is_recognised_behind_records_that_are_lost() -> None:
    disk = SimDisk()
    lost(disk, TopicConfig())
    told: list[str] = []
    store = opened(disk.process(), tell=told.append)
    assert [put(store, n) for n in (0, 2, 3)] == [True, True, False]
    assert any("records 3 to 3 are damaged or missing" in line for line in told)


def test_a_repeat_is_recognised_behind_a_repair() -> None:
    disk = SimDisk()
    lost(disk, TopicConfig(on_damage="stop"))
    store = opened(disk.process())
    with pytest.raises(errors.Damaged):
        put(store, 0)
    assert store.repair("t", 0).done
    assert [put(store, n) for n in (0, 2, 3)] == [True, True, False]


def test_a_record_that_is_lost_is_appended_again_by_its_repeat() -> None:
    """It is in the log for nobody: whoever has it still may give it back, and whoever goes on is told."""
    disk = SimDisk()
    store = three(disk)
    store.close()
    (name,) = segments(disk)
    disk.plant(name, content(disk, name)[:-60])
    store = opened(disk.process())
    with pytest.raises(errors.ProducerConflict, match="gap: the next one is 2"):
        put(store, 3)
    assert [put(store, n) for n in (2, 1, 3)] == [False, True, False]


# -- damage to the table


def test_a_damaged_table_is_worked_out_from_what_lies_before_it() -> None:
    for place in (10, HEADER_BYTES + 3):  # its header, and its body
        disk = SimDisk()
        store = three(disk, SMALL)
        roll(store)
        assert not put(store, 0, "q")
        store.close()
        flip(disk, segments(disk)[1], SEGMENT_HEADER_BYTES + place)
        store = opened(disk.process())
        assert [put(store, n) for n in (0, 2, 3)] == [True, True, False]
        assert [put(store, n, "q") for n in (0, 1)] == [True, False]
        roll(store)  # and from here on there is a table again
        store.close()
        store = opened(disk.process())
        assert known_producer(writer_of(store), id_of("q")) is not None
        assert [put(store, 3), put(store, 1, "q")] == [True, True]


def test_the_first_table_of_a_partition_is_damaged() -> None:
    disk = SimDisk()
    store = opened(disk)
    store.append("t", b"of nobody")
    assert [put(store, n) for n in range(2)] == [False, False]
    store.close()
    (name,) = segments(disk)
    flip(disk, name, tables(disk, name)[0] + HEADER_BYTES)
    store = opened(disk.process())
    assert [put(store, n) for n in (0, 1, 2)] == [True, True, False]
    # Its name was in the table, and is written anew with the next record.
    store.close()
    p = known_producer(writer_of(opened(disk.process())), id_of("p"))
    assert p is not None and p.name == "p"


def test_a_damaged_segment_header_and_table_are_worked_out_from_the_segment_before() -> None:
    disk = SimDisk()
    store = three(disk, SMALL)
    roll(store)
    store.close()
    flip(disk, segments(disk)[1], 5)
    flip(disk, segments(disk)[1], SEGMENT_HEADER_BYTES + HEADER_BYTES)
    store = opened(disk.process())
    assert [put(store, n) for n in (0, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("published", [True, False])
def test_a_damaged_table_at_the_end_is_cut_and_producers_are_known_all_the_same(published: bool) -> None:
    """A segment that holds only its table: nothing in it was acknowledged, so that damage looks torn."""
    disk = SimDisk()
    store = three(disk, SMALL)
    for _ in range(3):
        store.append("t", b"x" * 20_000)
    if published:  # the first record is not written, after all that the roll writes
        for call in ("pwrite", "pwritev"):
            disk.fail(call, 1, error=errno.ENOSPC, name="roll.tmp", times=2)
    else:
        disk.fail("pwrite", 1, error=errno.EIO, name="commit")
    with pytest.raises(errors.IOFailed):
        store.append("t", b"x" * 20_000)
    disk.sync_all()
    disk = next(disk.crash_states(1, 1))
    _, second = segments(disk)
    assert [b.position for b in batches_of(content(disk, second))] == [SEGMENT_HEADER_BYTES]
    flip(disk, second, SEGMENT_HEADER_BYTES + 10)
    told: list[str] = []
    store = opened(disk.process(), tell=told.append)
    store.append("t", b"of nobody")
    assert any("were never acknowledged" in line for line in told)
    assert [put(store, n) for n in (0, 2, 3)] == [True, True, False]


def test_a_heal_whose_last_durable_batch_is_damaged_knows_the_producers_before_it() -> None:
    disk = SimDisk()
    store = three(disk)
    end = writer_of(store).end.last
    poisoned(disk, store)
    flip(disk, segments(disk)[0], end + 10)
    store = opened(disk.process())
    assert [put(store, n) for n in (0, 1)] == [True, True]


def without_the_segment_before() -> SimDisk:
    disk = SimDisk()
    store = three(disk, SMALL)
    assert not put(store, 0, "seen")
    roll(store)
    assert not put(store, 1, "seen")
    store.close()
    first, second = segments(disk)
    flip(disk, second, SEGMENT_HEADER_BYTES + HEADER_BYTES)
    disk.unlink(first.rpartition("/")[2], disk.open_dir(PARTITION))
    return disk


def test_a_producer_that_damage_may_hide_is_refused_by_name() -> None:
    """The table is damaged and the segment before it gone: whoever is seen behind it goes on, nobody else."""
    disk = without_the_segment_before()
    for _ in range(2):
        store = opened(disk.process())
        for sequence in (0, 3):
            with pytest.raises(errors.ProducerConflict, match=r"'p'.*hides what it has appended"):
                put(store, sequence)
        assert put(store, 1, "seen")
        store.append("t", b"of nobody")
        store.close()
    store = opened(disk.process())
    assert not put(store, 2, "seen")  # this writes a table, which says that somebody may be missing
    assert len(tables(disk, segments(disk)[0])) == 2
    store.close()
    store = opened(disk.process())
    with pytest.raises(errors.ProducerConflict, match="hides what it has appended"):
        put(store, 0)
    roll(store)
    with pytest.raises(errors.ProducerConflict, match="hides what it has appended"):
        put(store, 0)


def test_a_new_source_may_begin_where_damage_hides_what_was_appended(tmp_path: Path) -> None:
    disk = without_the_segment_before()
    file = tmp_path / "input"
    file.write_bytes(b"one\n")
    store = opened(disk.process())
    with pytest.raises(errors.ProducerConflict, match="hides what"):
        feed(store, "t", [str(file)], FeedOptions(producer="p"))
    assert feed(store, "t", [str(file)], FeedOptions(producer="p", new_source=True)).records == 1
    file.write_bytes(b"one\ntwo\n")
    assert feed(store, "t", [str(file)], FeedOptions(producer="p")).records == 1


def test_what_damage_hides_expires_as_the_producers_would_have() -> None:
    disk = without_the_segment_before()
    store = opened(disk.process())
    for _ in range(9):
        disk.advance(DAY)
        store.append("t", b"of nobody")
    assert not put(store, 0)


def test_a_segment_behind_one_without_producers_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll that was killed before it was published: recovery follows, and knows that there is nobody."""
    disk = SimDisk()
    store = opened(disk, SMALL)
    for _ in range(3):
        store.append("t", b"x" * 20_000)
    disk.fail("pwrite", 1, error=errno.EIO, name="commit")
    with pytest.raises(errors.IOFailed):
        store.append("t", b"x" * 20_000)
    assert len(segments(disk)) == 2
    store = opened(next(disk.crash_states(1, 1, "ordered")))
    assert writer_of(store).end.producers == NO_TABLE


# -- a table that could not be written


@pytest.mark.parametrize("others", [0, 1])
def test_a_name_whose_table_could_not_be_written_is_written_at_the_next_try(others: int) -> None:
    disk = SimDisk()
    store = opened(disk)
    for number in range(others):
        put(store, 0, f"other{number}")
    disk.fail("pwrite", error=errno.ENOSPC, name=".log", times=2)
    for _ in range(2):
        with pytest.raises(errors.IOFailed):
            put(store, 0)
    assert not put(store, 0)
    store.close()
    p = known_producer(writer_of(opened(disk.process())), id_of("p"))
    assert p is not None and p.name == "p"


# -- the clock


def test_a_jump_of_the_clock_does_not_make_producers_forgotten() -> None:
    disk = SimDisk()
    store = three(disk, SMALL)
    disk.advance(8 * DAY)
    assert not put(store, 0, "q")
    disk.advance(-8 * DAY)
    assert [put(store, 2), put(store, 0, "q")] == [True, True]


@pytest.mark.parametrize("appends", [1, 5])
def test_a_jump_of_the_clock_and_new_segments_behind_it(appends: int) -> None:
    """Each roll writes a table, and what it leaves out is forgotten."""
    disk = SimDisk()
    store = three(disk, SMALL)
    disk.advance(30 * DAY)
    for _ in range(appends):
        roll(store)
    disk.advance(-30 * DAY)
    for _ in range(3):
        roll(store)
        store.close()
        store = opened(disk.process())
    assert [put(store, n) for n in (0, 2, 3)] == [True, True, False]


def test_a_jump_that_a_roll_meets_first_ages_nobody() -> None:
    disk = SimDisk()
    store = three(disk, SMALL)
    for _ in range(3):
        store.append("t", b"x" * 20_000)
    disk.advance(30 * DAY)
    roll(store)  # the first that sees the new time is the table of the new segment
    roll(store)
    assert put(store, 2)


def test_a_producer_that_was_not_used_for_seven_days_of_appends_is_forgotten() -> None:
    disk = SimDisk()
    store = three(disk, SMALL)
    for _ in range(10):
        disk.advance(DAY)
        store.append("t", b"x" * 20_000)
    with pytest.raises(errors.ProducerConflict, match="nothing is known"):
        put(store, 3)
    assert not put(store, 0)


def test_a_producer_that_appends_is_not_forgotten_by_the_table_it_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producers, "TABLE_DISTANCE", 30_000)
    disk = SimDisk()
    store = three(disk)
    for _ in range(9):
        disk.advance(DAY)
        store.append("t", b"x" * 2_000)
    store.append("t", b"x" * 20_000)
    assert not put(store, 3)
    store.close()
    p = known_producer(writer_of(opened(disk.process())), id_of("p"))
    assert p is not None and (p.name, p.next_sequence) == ("p", 4)


# -- size


def test_a_new_producer_costs_its_own_entry_and_not_the_whole_table() -> None:
    sizes = []
    for count in (100, 400):
        disk = SimDisk()
        store = opened(disk)
        for number in range(count):
            put(store, 0, f"job-{number:06d}")
        store.close()
        sizes.append(len(content(disk, segments(disk)[0])))
        store = opened(disk.process())
        assert all(put(store, 0, f"job-{number:06d}") for number in range(count))
        assert store.verify().ok
    assert sizes[1] - sizes[0] < 300 * 320, sizes  # two headers, a record and an entry


def test_producer_state_is_read_back_from_a_bounded_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "TABLE_DISTANCE", 4_000)
    disk = SimDisk()
    store = opened(disk)
    writer = writer_of(store)
    written = 0
    for number in range(300):
        put(store, 0, f"job-{number:06d}")
        state = load(writer.files, writer.end)
        stretch = writer.end.position - writer.end.producers
        assert stretch <= max(4_000, 32 * state.table_bytes) + 1_000 + state.table_bytes
        assert len(state.known) == number + 1
    (name,) = segments(disk)
    data = content(disk, name)
    for batch in batches_of(data):
        header = parse_header(data, batch.position)
        if header.kind in (KIND_TABLE, KIND_PRODUCERS):
            assert header.flags & FLAG_CONTROL and not header.span
            assert (header.table_back == 0) == (header.kind == KIND_TABLE)
            written += header.kind == KIND_TABLE
    assert 1 < written < 10


def test_more_producers_than_a_table_holds_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "MAX_PRODUCERS", 5)
    disk = SimDisk()
    store = opened(disk)
    for number in range(5):
        put(store, 0, f"job{number}")
    with pytest.raises(errors.ProducerConflict, match=r"'onemore'.*5 others"):
        put(store, 0, "onemore")
    assert not put(store, 1, "job4")
    for _ in range(8):
        disk.advance(DAY)
        store.append("t", b"of nobody")
    assert not put(store, 0, "onemore")  # the others have had their time


def test_the_greatest_table_fits_a_batch() -> None:
    from pspf.format.producers import KEEP_RANGES, Producer, encode_table
    from pspf.model import MAX_BATCH_BODY

    greatest = Producer(1, "n" * 255)
    greatest.ranges = [(1, 1, 1)] * KEEP_RANGES
    assert (producers.MAX_PRODUCERS + 2) * len(encode_table([greatest])) <= MAX_BATCH_BODY


# -- leader epochs


def with_a_new_epoch() -> SimDisk:
    """A power cut took visible records, so that epoch 1 begins inside the segment."""
    disk = SimDisk()
    store = opened(disk, TopicConfig(durability="os", segment_bytes=64 << 10))
    for number in range(3):
        store.append("t", f"old{number}")
    for state in disk.crash_states(7, 400):
        end = writer_of(opened(state.copy())).end
        if end.epoch:
            return state
    raise AssertionError("no state in which visible records are gone")


def test_a_writer_beside_another_goes_on_in_an_epoch_that_began_inside_the_segment() -> None:
    disk = with_a_new_epoch()
    one, other = opened(disk), opened(disk.process())
    one.append("t", b"A")
    start = writer_of(one).end.offset - 1
    assert [writer_of(store).end.epoch for store in (one, other)] == [1, 1]
    other.append("t", b"B")
    one.close()
    other.close()
    store = opened(disk.process())
    assert writer_of(store).end.epoch == 1
    roll(store)
    header = writer_of(store).end.segment.header
    assert header is not None and (header.epoch, header.epochs) == (1, [(0, 0), (1, start)])
    roll(store)
    header = writer_of(store).end.segment.header
    assert header is not None and header.epochs == [(0, 0), (1, start)]
    assert store.verify().ok


def test_epochs_that_go_backwards_are_named_by_verify() -> None:
    disk = with_a_new_epoch()
    store = opened(disk)
    store.append("t", b"A")
    offset = writer_of(store).end.offset
    writer_of(store).end.epoch = 0
    store.append("t", b"B")
    assert [(f.kind, f.first_offset, f.last_offset) for f in store.verify().findings] == [
        ("epoch", offset, offset)
    ]


# -- taking over what others did


def test_a_writer_that_could_not_adopt_in_a_new_segment_adopts_at_its_next_append(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It opened the segment now: its sync vouches for nothing that others wrote there before."""
    disk = SimDisk()
    one = opened(disk, TopicConfig(durability="os", segment_bytes=64 << 10))
    one.append("t", b"first")
    other = opened(disk.process())
    roll(other)
    end = writer_of(other).end
    disk.fail("pread", error=errno.EIO, name="commit")
    with pytest.raises(errors.IOFailed):
        one.append("t", b"B")
    adopt = Mock(return_value=True)
    monkeypatch.setattr("pspf.log.others.adopt", adopt)
    one.append("t", b"B")
    adopt.assert_called_once()  # or what the other one wrote would have been acknowledged unseen
    assert adopt.call_args.args[-1] == end.position
    assert values(one)[end.offset :] == [b"B"]
