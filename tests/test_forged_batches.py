"""Batches that check by themselves and stand in the wrong place, and headers with one damaged byte.

They come about when a disk loses a write, brings an old one back, or flips a bit where only one checksum
looks. On the simulated disk; each check has a test that fails without it.
"""

import pytest

from pspf import errors
from pspf.disk.real import WRITE
from pspf.format.batch import HEADER_BYTES, NO_TABLE, header_fault, parse_header
from pspf.format.encode import encode_records
from pspf.format.segment import parse_segment
from pspf.format.slots import (
    FLAG_DELETED,
    FLAG_DOUBT,
    Commit,
    NewerSlot,
    Start,
    newest_commit,
    newest_start,
)
from pspf.log.producers import ProducerCheck
from pspf.log.reader import PartitionReader
from pspf.log.scan import Scanner, hop
from pspf.store.feed import FeedOptions, feed
from pspf.store.open import open_store
from pspf.store.repair import _wants_decision
from pspf.testing import Killed, SimDisk, WouldDeadlock
from pspf.testing.scenarios import STORE
from tests.test_crash_states import same_every_time
from tests.test_steps_of_appending import (
    PARTITION,
    SEGMENT,
    held,
    opened,
    plain_topic,
    poisoned_by,
    roll_by,
    values,
    writer_of,
)
from tests.test_steps_of_recovery import overwrite


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


class Log:
    """One segment, closed: where its batches stand, and what they are."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.raw = disk.tree()[SEGMENT] or b""
        self.segment_id = int.from_bytes(self.raw[16:24], "little")
        fd = disk.open(SEGMENT, WRITE, disk.open_dir("/"))
        self.fd = fd
        found = self._first_id()
        self.segment_id = found
        self.places = list(hop(disk, fd, found, 4096, len(self.raw)))

    def _first_id(self) -> int:
        return int.from_bytes(self.raw[4096 + 8 : 4096 + 16], "little")

    def forged(self, number: int, first: int, values: list[bytes], chain: "int | None" = None) -> bytes:
        """A whole batch for the place of batch ``number``."""
        position, header = self.places[number]
        encoded = encode_records(values, None, 1, None, False)
        follows = header.chain if chain is None else chain
        sealed = encoded.seal(first, 0, header.append_ns, self.segment_id, position, follows, first, NO_TABLE)
        return sealed + b"".join(bytes(part) for part in encoded.parts)


def three_records() -> Log:
    disk = plain_topic()
    with opened(disk) as store:
        for value in (b"1", b"2", b"3"):
            store.append("t", value)
    return Log(disk)


def read(disk: SimDisk) -> list[bytes | None]:
    with open_store(STORE, create=False, read_only=True, disk=disk.process()) as store:
        return [record.value for record in store.read("t")]


def test_a_batch_that_does_not_follow_the_one_before_it_is_damage_to_a_reader() -> None:
    log = three_records()
    overwrite(log.disk, SEGMENT, log.places[3][0], log.forged(3, 3, [b"x"], chain=77))
    with pytest.raises(errors.Damaged, match="chain"):
        read(log.disk)


def test_a_batch_behind_missing_offsets_is_damage_to_a_reader() -> None:
    log = three_records()
    overwrite(log.disk, SEGMENT, log.places[2][0], log.forged(2, 3, [b"x"]))
    with pytest.raises(errors.Damaged) as found:
        read(log.disk)
    assert found.value.offset == 2


def test_a_batch_that_reaches_into_the_next_segment_is_damage_to_a_reader() -> None:
    disk = plain_topic()
    store = opened(disk)
    store.append("t", b"1")
    log = Log(disk)
    roll_by(store)
    store.append("t", b"2")
    position = log.places[1][0]
    batch = log.forged(1, 1, [b"x", b"y"])
    overwrite(disk, SEGMENT, position, batch)
    fd = disk.open(SEGMENT, WRITE, disk.open_dir("/"))
    disk.truncate(fd, position + len(batch))
    with pytest.raises(errors.Damaged) as found:
        read(disk)
    assert found.value.offset == 1, "records of the next segment would be given twice"


@pytest.mark.parametrize("at", [4, 20, 24])
def test_a_header_with_a_damaged_local_field_is_damage_to_a_reader(at: int) -> None:
    # These are not covered by the CRC of the batch, only by that of the header.
    log = three_records()
    position = log.places[2][0] + at
    overwrite(log.disk, SEGMENT, position, bytes([log.raw[position] ^ 1]))
    with pytest.raises(errors.Damaged):
        read(log.disk)


def scanner_of(log: Log) -> Scanner:
    position, header = log.places[3]
    return Scanner(log.disk, log.fd, log.segment_id, position, 3, header.chain, len(log.raw))


def test_no_damaged_byte_of_a_batch_passes_the_strict_walk() -> None:
    log = three_records()
    start = log.places[3][0]
    for at in range(start, len(log.raw)):
        overwrite(log.disk, SEGMENT, at, bytes([log.raw[at] ^ 4]))
        scanner = scanner_of(log)
        assert scanner.step() is None and scanner.fault, at - start
        overwrite(log.disk, SEGMENT, at, log.raw[at : at + 1])
    assert scanner_of(log).step() is not None


def test_a_log_that_ends_anywhere_inside_a_batch_ends_the_strict_walk() -> None:
    log = three_records()
    start = log.places[3][0]
    for size in range(len(log.raw) - 1, start, -1):
        log.disk.truncate(log.fd, size)
        log.raw = log.raw[:size]
        scanner = scanner_of(log)
        assert scanner.step() is None and "ends inside" in scanner.fault


@pytest.mark.parametrize("first, chain", [(3, 77), (4, None), (2, None)])
def test_a_batch_in_the_wrong_place_does_not_pass_the_strict_walk(first: int, chain: "int | None") -> None:
    log = three_records()
    overwrite(log.disk, SEGMENT, log.places[3][0], log.forged(3, first, [b"x"], chain))
    scanner = scanner_of(log)
    assert scanner.step() is None and scanner.fault


def test_a_hop_goes_over_a_damaged_header_to_the_next_one() -> None:
    log = three_records()
    position = log.places[1][0]
    overwrite(log.disk, SEGMENT, position + 28, b"\x01\x00\x00\x00")  # its length
    found = [at for at, _ in hop(log.disk, log.fd, log.segment_id, 4096, len(log.raw))]
    assert found == [log.places[0][0], log.places[2][0], log.places[3][0]]


@pytest.mark.parametrize("length, plain", [(0, 1), (1, (64 << 20) + 1), ((64 << 20) + 1, 1)])
def test_lengths_out_of_bounds_are_refused_before_anything_is_allocated(length: int, plain: int) -> None:
    encoded = encode_records([b"x"], None, 1, None, False)
    encoded.body_length, encoded.plain_length = length, plain
    sealed = encoded.seal(0, 0, 1, 5, 4096, 0, 0, NO_TABLE)
    assert parse_header(sealed).body_length == length
    assert header_fault(sealed, 0, 5, 4096) == "batch length out of bounds"
    assert len(sealed) == HEADER_BYTES


def test_a_damaged_segment_header_that_names_another_topic_costs_no_record() -> None:
    log = three_records()
    overwrite(log.disk, SEGMENT, 26, bytes([log.raw[26] ^ 1]))
    assert read(log.disk) == [b"before", b"1", b"2", b"3"]


# -- readers and deleted topics


def test_a_reader_is_told_that_its_topic_was_deleted() -> None:
    disk = plain_topic()
    reading = open_store(STORE, disk=disk.process())
    reader = reading.reader("t", 0)
    assert reader.end() == 1
    with open_store(STORE, disk=disk) as store:
        store.delete_topic("t")
    with pytest.raises(errors.TopicDeleted):
        reader.end()


def test_a_reader_settles_nothing_in_a_topic_that_is_being_deleted() -> None:
    disk = plain_topic()
    reading = disk.process()
    reader = open_store(STORE, disk=reading).reader("t", 0)
    before: dict[str, bytes | None] = {}

    def deleted_meanwhile(call: str) -> None:
        if call == "pread":  # the files are open by now, and nothing of them was read
            reading.before_call = None
            with open_store(STORE, disk=disk) as store:
                disk.stop_behind("unlink", ".log")
                with pytest.raises(Killed):
                    store.delete_topic("t")
            before.update(disk.tree())

    reading.before_call = deleted_meanwhile
    with pytest.raises(errors.TopicDeleted):
        reader.end()
    assert before and reading.tree() == before


def test_a_reader_waits_for_the_lock_where_no_end_is_published() -> None:
    disk = plain_topic()
    overwrite(disk, f"{PARTITION}/commit", 0, b"\xee" * 1024)
    held(disk)
    with open_store(STORE, disk=disk.process()) as store, pytest.raises(WouldDeadlock):
        values(store)


def test_a_segment_that_was_replaced_behind_a_readers_back_is_no_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The heal of a segment without durable records gives its name to a new one.
    disk = plain_topic(durability="os")
    with opened(disk) as store:
        roll_by(store)
    writing = opened(disk)
    writing.append("t", b"visible")
    reader = open_store(STORE, disk=disk.process()).reader("t", 0)
    assert reader.end() == 2
    reader.seek(1)
    real = PartitionReader._enter

    def healed_meanwhile(self: PartitionReader, *rest: object) -> object:
        monkeypatch.setattr(PartitionReader, "_enter", real)
        poisoned_by(disk, writing, lies="", durability="sync")
        opened(disk.process())
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PartitionReader, "_enter", healed_meanwhile)
    try:
        for _ in range(10):
            assert not reader.read()
    except errors.RecordsTakenBack:
        pass  # that is how it is told, and not as damage


# -- producers


def check_of(name: str, epoch: "int | None" = None, number: int = 7) -> ProducerCheck:
    return ProducerCheck(number, name, None, None, 0, 0, epoch)


def test_an_older_run_of_a_producer_is_refused() -> None:
    disk = plain_topic()
    writer = writer_of(opened(disk))
    writer.append(encode_records([b"new"], None, 1, None, False), producer=check_of("p", 2))
    with pytest.raises(errors.ProducerConflict):
        writer.append(encode_records([b"old"], None, 1, None, False), producer=check_of("p", 1))


def test_two_producers_whose_names_have_one_id_are_told_apart() -> None:
    disk = plain_topic()
    writer = writer_of(opened(disk))
    writer.append(encode_records([b"one"], None, 1, None, False), producer=check_of("one"))
    with pytest.raises(errors.ProducerConflict):
        writer.append(encode_records([b"two"], None, 1, None, False), producer=check_of("two"))


def test_a_producer_whose_name_is_in_use_is_busy(tmp_path: "object") -> None:
    path = f"{tmp_path}/input"
    with open(path, "wb") as file:
        file.write(b"a\nb\n")
    disk = plain_topic()
    with open_store(STORE, disk=disk.process()) as store:
        feed(store, "t", [path], FeedOptions(producer="p"))
    other = disk.process()
    directory = f"{STORE}/topics/t/producers"
    (lock,) = [name for name in disk.tree() if name.startswith(directory) and name.endswith(".lock")]
    other.lock(other.open(lock, WRITE, other.open_dir("/")))
    with open_store(STORE, disk=disk) as store, pytest.raises((errors.Busy, OSError)):
        feed(store, "t", [path], FeedOptions(producer="p"))


def test_another_input_under_the_name_of_a_producer_is_refused(tmp_path: "object") -> None:
    path = f"{tmp_path}/input"
    disk = plain_topic()
    for number, content in enumerate((b"a\nb\n", b"a\nX\nc\n")):
        with open(path, "wb") as file:
            file.write(content)
        with open_store(STORE, disk=disk.process()) as store:
            if number == 0:
                feed(store, "t", [path], FeedOptions(producer="p"))
            else:
                with pytest.raises(errors.ProducerConflict):
                    feed(store, "t", [path], FeedOptions(producer="p"))
            assert len(values(store)) == 3


# -- what else looks at headers and slots


def test_a_batch_that_reaches_beyond_its_segment_is_named() -> None:
    log = three_records()
    reader = open_store(STORE, disk=log.disk.process(), read_only=True).reader("t", 0)
    reader.seek(3)
    commit = reader._refresh()
    assert commit is not None
    data = log.forged(3, 3, [b"x", b"y"])
    reader._chain = log.places[3][1].chain
    reader.next_offset = 3
    assert reader._fault_of(parse_header(data), data, 0, 5, commit) == ""
    assert "reaches beyond" in reader._fault_of(parse_header(data), data, 0, 4, commit)


def slots(kind: "type[Commit] | type[Start]", numbers: "tuple[int, int]") -> bytearray:
    """A file with two slots of these sequences; each names its sequence as its offset, too."""
    data = bytearray(1024)
    for number in numbers:
        if kind is Commit:
            slot: Commit | Start = Commit(number, 1, 0, 0, number, number, 4096, 4096, 0, 9)
            place = slot.place  # type: ignore[union-attr]
        else:
            slot, place = Start(number, 1, number, number, 9), 512 * (number & 1)
        data[place : place + 64] = slot.encode()
    return data


def test_a_damaged_newest_slot_is_passed_over_for_the_one_before() -> None:
    for bit in range(60 * 8):
        for kind, newest in ((Commit, newest_commit), (Start, newest_start)):
            data = slots(kind, (4, 5))
            data[512 + bit // 8] ^= 1 << bit % 8
            try:
                found = newest(bytes(data), 9)
            except NewerSlot:
                raise AssertionError("a damaged slot was believed") from None
            assert found is not None and found.sequence == 4, bit


@pytest.mark.parametrize("numbers", [(4, 5), (5, 6)])
def test_the_newest_of_two_whole_slots_counts(numbers: tuple[int, int]) -> None:
    for kind, newest in ((Commit, newest_commit), (Start, newest_start)):
        found = newest(bytes(slots(kind, numbers)), 9)
        assert found is not None and found.sequence == max(numbers)


def test_no_end_is_decided_in_a_topic_that_was_deleted() -> None:
    disk = plain_topic()
    with open_store(STORE, disk=disk) as store:
        identity = store.topic("t").identity(0, "")
    with pytest.raises(errors.TopicDeleted):
        _wants_decision(Commit(1, 1, FLAG_DELETED | FLAG_DOUBT, 0, 0, 0, 4096, 4096, 0, 9), identity)


def two_segments() -> SimDisk:
    disk = plain_topic(interval_ms=777)
    with opened(disk) as store:
        roll_by(store)
        store.append("t", b"1")
    return disk


SECOND = f"{PARTITION}/{1:020d}.log"


@pytest.mark.parametrize("size", [4096, 100])
def test_settings_are_rebuilt_from_a_header_that_is_whole(size: int) -> None:
    disk = two_segments()
    raw = disk.tree()[SECOND] or b""
    at = raw.index(b"interval_ms = 777") + len("interval_ms = ")
    overwrite(disk, SECOND, at, b"888")
    disk.truncate(disk.open(SECOND, WRITE, disk.open_dir("/")), size)
    disk.unlink("topic.toml", disk.open_dir(f"{STORE}/topics/t"))
    with open_store(STORE, disk=disk) as store:
        assert store.topic("t").config.interval_ms == 777


def test_the_time_in_a_damaged_header_is_not_shown() -> None:
    disk = plain_topic()
    with opened(disk) as store:
        store.append("t", b"1", timestamp_ms=5_000_000_000_000)
    log = Log(disk)
    position = log.places[1][0]
    overwrite(disk, SEGMENT, position + 72 + 6, b"\x01")
    with open_store(STORE, disk=disk, read_only=True) as store:
        (partition,) = store.describe("t").partitions
        assert partition.last_ms is None or partition.last_ms <= 5_000_000_000_000


def kinds(disk: SimDisk) -> set[str]:
    with open_store(STORE, disk=disk, read_only=True) as store:
        return {found.kind for found in store.verify().findings if found.severity == "damage"}


def test_verify_believes_nothing_of_a_damaged_segment_header() -> None:
    disk = two_segments()
    header = parse_segment((disk.tree()[SECOND] or b"")[:4096])
    raw = disk.tree()[SECOND] or b""
    at = raw.index(header.prev_crc.to_bytes(4, "little"))
    overwrite(disk, SECOND, at, bytes([raw[at] ^ 1]))
    assert kinds(disk) == {"segment-header"}


def test_verify_takes_no_length_from_a_damaged_header() -> None:
    log = three_records()
    position, header = log.places[2]
    longer = header.body_length + log.places[3][1].size  # as if it reached over the next one
    overwrite(log.disk, SEGMENT, position + 28, longer.to_bytes(4, "little"))
    with open_store(STORE, disk=log.disk, read_only=True) as store:
        (found,) = [found for found in store.verify().findings if found.severity == "damage"]
    assert (found.kind, found.first_offset, found.last_offset) == ("batch-header", 2, 2)
