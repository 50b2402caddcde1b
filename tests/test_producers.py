"""Appending once however often it is tried: sequences in the library, ``--producer`` on the command line."""

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import pspf as library
from pspf import errors
from pspf.model import TopicConfig
from pspf.store.store import Store
from pspf.testing.ledger import read_all
from tests.conftest import Pspf
from tests.support_processes import (
    acknowledged,
    check_records,
    check_store,
    nothing_left_running,  # noqa: F401
    start_command,
    start_worker,
)
from tests.support_worker import value_of, whose


@pytest.fixture
def store(store_dir: Path) -> Iterator[Store]:
    with library.open(str(store_dir)) as opened:
        yield opened


def put(store: Store, sequence: int | None, producer: str = "me", partition: int = 0) -> "tuple[int, bool]":
    row = store.append(
        "t",
        b"%s:%d" % (producer.encode(), sequence or 0),
        producer=producer,
        sequence=sequence,
        partition=partition,
    )
    return row.first, row.duplicate


def values(store: Store) -> list[bytes | None]:
    return [record.value for record in store.read("t")]


# -- sequences


def test_a_repeat_is_recognised_and_gets_the_offset_it_had(store: Store) -> None:
    assert [put(store, n) for n in (0, 1, 1, 0, 2)] == [
        (0, False),
        (1, False),
        (1, True),
        (0, True),
        (2, False),
    ]
    assert values(store) == [b"me:0", b"me:1", b"me:2"]


def test_a_gap_is_refused_and_nothing_is_appended(store: Store) -> None:
    put(store, 0)
    with pytest.raises(errors.ProducerConflict, match="gap") as caught:
        put(store, 2)
    assert caught.value.exit_code == 65
    with pytest.raises(errors.ProducerConflict):
        put(store, 5, producer="unknown")
    assert put(store, 1) == (1, False)
    assert values(store) == [b"me:0", b"me:1"]


def test_a_repeat_from_long_ago_is_recognised_though_its_offset_is_not_known_any_more(store: Store) -> None:
    for sequence in range(50):
        put(store, sequence)
    row = store.append("t", b"me:3", producer="me", sequence=3)
    assert row.duplicate
    assert len(values(store)) == 50


def test_without_a_sequence_the_next_one_is_taken(store: Store) -> None:
    put(store, 0)
    assert store.append("t", b"me:1", producer="me").first == 1
    assert put(store, 1) == (1, True)


def test_producers_do_not_know_of_each_other(store: Store) -> None:
    rng = random.Random(7)
    at = dict.fromkeys(("a", "b", "c"), 0)
    for _ in range(200):
        name = rng.choice("abc")
        assert put(store, at[name], name)[1] is False
        if at[name]:
            assert put(store, at[name] - 1, name)[1] is True
        at[name] += 1
    for name, end in at.items():
        mine = [value for value in values(store) if value is not None and value.startswith(name.encode())]
        assert mine == [b"%s:%d" % (name.encode(), n) for n in range(end)]


def test_each_partition_has_a_sequence_of_its_own(store: Store) -> None:
    store.create_topic("t", TopicConfig(partitions=2))
    assert put(store, 0, partition=0) == (0, False)
    assert put(store, 0, partition=1) == (0, False)
    assert put(store, 0, partition=1) == (0, True)


def test_sequences_are_known_after_reopening(store_dir: Path) -> None:
    for number in range(5):
        with library.open(str(store_dir)) as store:
            if number:
                assert put(store, number - 1) == (number - 1, True)
            assert put(store, number) == (number, False)
            with pytest.raises(errors.ProducerConflict):
                put(store, number + 2)


def test_sequences_are_known_to_another_process(store_dir: Path) -> None:
    with library.open(str(store_dir)) as one, library.open(str(store_dir)) as other:
        for number in range(20):
            assert put((one, other)[number % 2], number) == (number, False)
            assert put((other, one)[number % 2], number) == (number, True)


def test_sequences_are_known_after_rolls(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=65536))
        put(store, 0, "quiet")
        for number in range(40):
            store.append("t", bytes(9_000), producer="busy", sequence=number)
        assert put(store, 0, "quiet")[1] is True
        assert put(store, 1, "quiet")[1] is False
    assert len(list((store_dir / "topics/t/0").glob("*.log"))) > 3
    with library.open(str(store_dir)) as store:
        assert put(store, 1, "quiet")[1] is True
        assert store.append("t", bytes(9_000), producer="busy", sequence=39).duplicate
        assert store.append("t", bytes(9_000), producer="busy", sequence=40).duplicate is False
        assert store.verify().ok


def test_many_producers_in_one_partition(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        for number in range(300):
            put(store, 0, f"producer{number}")
    with library.open(str(store_dir)) as store:
        for number in range(300):
            assert put(store, 0, f"producer{number}") == (number, True)
        assert store.verify().ok


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 201, "a\nb"])
def test_a_bad_producer_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(errors.BadName):
        store.append("t", b"v", producer=name, sequence=0)


def test_repeating_what_was_not_acknowledged_after_kills_appends_each_record_once(store_dir: Path) -> None:
    rng = random.Random(11)
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=65536))
    done = 0
    for _ in range(6):
        # It takes up at the first record whose acknowledgement it does not have: that one may be there.
        worker = start_worker("sequence", store_dir, "t", "me", f"first={done}")
        worker.wait_for_lines(rng.randrange(1, 60))
        time.sleep(rng.uniform(0, 0.02))
        worker.kill()
        assert worker.killed(), worker.errors()
        rows = acknowledged(worker).rows
        assert all(offset == number for _, offset, number, _ in rows)
        done = rows[-1][2] + 1
    with library.open(str(store_dir)) as store:
        found = check_store(store, "t", 1)
    numbers = [whose(value or b"")[1] for _, value in found[0]]
    assert numbers == list(range(len(numbers))) and len(numbers) in (done, done + 1)


# -- an input that is fed again


class Feeding:
    """``pspf append --producer``, on a file that grows."""

    def __init__(self, pspf: Pspf, store_dir: Path) -> None:
        self.pspf = pspf
        self.store_dir = store_dir
        self.file = store_dir.parent / "input"

    def __call__(self, data: bytes | None, *args: str, code: int = 0) -> "subprocess.CompletedProcess[bytes]":
        if data is not None:
            self.file.write_bytes(data)
        ran = self.pspf("-s", self.store_dir, "append", "t", "--producer", "me", str(self.file), *args)
        assert ran.returncode == code, ran.stderr.decode()
        return ran

    def values(self) -> list[str]:
        with library.open(str(self.store_dir)) as store:
            assert store.verify().ok
            return [(record.value or b"").decode() for record in store.read("t")]

    def keyed(self) -> dict[int, list[tuple[str, str]]]:
        found: dict[int, list[tuple[str, str]]] = {}
        with library.open(str(self.store_dir)) as store:
            for record in store.read("t"):
                pair = ((record.key or b"").decode(), (record.value or b"").decode())
                found.setdefault(record.partition, []).append(pair)
        return found

    def partitions(self, number: int) -> None:
        with library.open(str(self.store_dir)) as store:
            store.create_topic("t", TopicConfig(partitions=number, segment_bytes=65536))


@pytest.fixture
def feeding(pspf: Pspf, store_dir: Path) -> Feeding:
    return Feeding(pspf, store_dir)


def test_the_same_file_again_appends_nothing(feeding: Feeding) -> None:
    for _ in range(3):
        feeding(b"one\ntwo\nthree\n")
    assert feeding.values() == ["one", "two", "three"]


def test_a_file_that_grows_appends_what_is_new(feeding: Feeding) -> None:
    content = b""
    for number in range(5):
        content += b"".join(b"%d:%d\n" % (number, n) for n in range(number * 3))
        feeding(content)
        feeding(content)
    assert feeding.values() == content.decode().splitlines()


def test_a_last_line_without_its_end_that_gets_it_later(feeding: Feeding) -> None:
    feeding(b"one\ntwo")
    feeding(b"one\ntwo\n")
    feeding(b"one\ntwo\nthree")
    feeding(b"one\ntwo\nthree\nfour\n")
    assert feeding.values() == ["one", "two", "three", "four"]


def test_a_last_line_without_its_end_that_grew_is_refused(feeding: Feeding) -> None:
    feeding(b"one\ntwo")
    ran = feeding(b"one\ntwo and more\nthree\n", code=65)
    assert b"has grown since" in ran.stderr and b"--new-source" in ran.stderr
    assert feeding.values() == ["one", "two"]


def test_a_last_line_without_its_end_that_grew_by_one_byte_is_refused_instead_of_lost(
    feeding: Feeding,
) -> None:
    feeding(b"one\ntw")
    ran = feeding(b"one\ntwo", code=65)
    assert b"has grown since" in ran.stderr
    assert feeding.values() == ["one", "tw"]


@pytest.mark.parametrize("other", [b"ONE\ntwo\nthree\n", b"one\ntwo\n", b"", b"one\ntwo\nthreE\nfour\n"])
def test_another_input_is_refused_and_nothing_of_it_is_appended(feeding: Feeding, other: bytes) -> None:
    feeding(b"one\ntwo\nthree\n")
    ran = feeding(other, code=65)
    assert b"another input" in ran.stderr and b"hint: " in ran.stderr and b"--new-source" in ran.stderr
    assert feeding.values() == ["one", "two", "three"]
    feeding(b"one\ntwo\nthree\nfour\n")
    assert feeding.values() == ["one", "two", "three", "four"]


def test_a_new_source_begins_another_input(feeding: Feeding) -> None:
    feeding(b"one\ntwo\n")
    feeding(b"1\n2\n", "--new-source")
    feeding(b"1\n2\n3\n")
    assert feeding.values() == ["one", "two", "1", "2", "3"]
    feeding(b"one\ntwo\n", code=65)


def test_a_new_source_without_an_old_one(feeding: Feeding) -> None:
    feeding(b"one\n", "--new-source")
    feeding(b"one\ntwo\n")
    assert feeding.values() == ["one", "two"]


def test_two_producers_feed_the_same_file(feeding: Feeding) -> None:
    feeding(b"one\n")
    ran = feeding.pspf("-s", feeding.store_dir, "append", "t", "--producer", "you", str(feeding.file))
    assert ran.returncode == 0, ran.stderr
    feeding(b"one\ntwo\n")
    assert feeding.values() == ["one", "one", "two"]


def test_several_files_are_one_input(feeding: Feeding, scratch_dir: Path) -> None:
    (scratch_dir / "more").write_bytes(b"m1\nm2\n")
    feeding(b"one\n", str(scratch_dir / "more"))
    (scratch_dir / "more").write_bytes(b"m1\nm2\nm3\n")
    feeding(None, str(scratch_dir / "more"))
    assert feeding.values() == ["one", "m1", "m2", "m3"]


def test_a_producer_through_a_pipe(feeding: Feeding, pspf: Pspf) -> None:
    for end in (3, 3, 7):
        data = b"".join(b"%d\n" % n for n in range(end))
        ran = pspf("-s", feeding.store_dir, "append", "t", "--producer", "me", input=data)
        assert ran.returncode == 0, ran.stderr
    assert feeding.values() == [str(n) for n in range(7)]


def test_a_producer_of_records_that_end_in_nul(feeding: Feeding) -> None:
    feeding(b"one\n\0two", "-0")
    feeding(b"one\n\0two\0three", "-0")
    feeding(b"one\n\0two\0three\0", "-0")
    assert feeding.values() == ["one\n", "two", "three"]


def test_malformed_input_of_a_producer_goes_on_where_it_is_mended(feeding: Feeding) -> None:
    ran = feeding(b"a:1\nb:2\nbroken\nc:3\n", "-K", ":", code=65)
    assert b"line 3" in ran.stderr
    assert feeding.values() == ["1", "2"]
    feeding(b"a:1\nb:2\nc:3\nd:4\n", "-K", ":")
    assert feeding.values() == ["1", "2", "3", "4"]


def test_records_with_keys_of_a_producer_over_several_partitions(feeding: Feeding) -> None:
    feeding.partitions(5)
    lines = [b"key%d:%d\n" % (n % 17, n) for n in range(2_000)]
    for end in (10, 700, 700, 2_000):
        feeding(b"".join(lines[:end]), "-K", ":")
    check_keyed(feeding, 2_000)


def check_keyed(feeding: Feeding, count: int) -> None:
    """Each number is there once, with its key, a key in one partition, in order."""
    found = feeding.keyed()
    places: dict[str, int] = {}
    numbers = []
    for partition, pairs in found.items():
        mine = [int(value) for _, value in pairs]
        assert mine == sorted(mine)
        numbers += mine
        for key, value in pairs:
            assert key == f"key{int(value) % 17}"
            assert places.setdefault(key, partition) == partition
    assert sorted(numbers) == list(range(count))


def test_partitions_added_between_two_runs_of_a_producer(feeding: Feeding) -> None:
    feeding.partitions(2)
    lines = [b"key%d:%d\n" % (n % 17, n) for n in range(300)]
    feeding(b"".join(lines[:150]), "-K", ":")
    with library.open(str(feeding.store_dir)) as store:
        store.add_partitions("t", 6)
    feeding(b"".join(lines), "-K", ":")
    feeding(b"".join(lines), "-K", ":")
    numbers = [int(value) for pairs in feeding.keyed().values() for _, value in pairs]
    assert sorted(numbers) == list(range(300))


@pytest.mark.parametrize("options", [[], ["-K", ":"]], ids=["lines", "keys"])
@pytest.mark.parametrize("partitions", [1, 3])
def test_kill_in_the_middle_and_again_appends_each_line_once(
    feeding: Feeding, options: list[str], partitions: int
) -> None:
    rng = random.Random(partitions * 2 + len(options))
    feeding.partitions(partitions)
    lines = [b"key%d:%d\n" % (n % 17, n) for n in range(40_000)]
    content = b"".join(lines)
    feeding.file.write_bytes(content)
    argv = ["append", "t", "--producer", "me", *options, "-"]
    for number in range(4):
        read_end, write_end = os.pipe()
        running = start_command(f"killed{number}", feeding.store_dir, *argv, stdin=read_end)
        os.close(read_end)
        with open(write_end, "wb", buffering=0) as pipe, suppress(BrokenPipeError):
            killer = threading.Timer(rng.uniform(0.05, 0.25), running.kill)
            killer.start()
            # Piece by piece, so that the kill finds it in the middle.
            for start in range(0, len(content), 30_000):
                pipe.write(content[start : start + 30_000])
                time.sleep(0.004)
        killer.join()
    feeding(None, *options)
    feeding(None, *options)
    found = feeding.keyed()
    numbers = []
    for pairs in found.values():
        mine = [int(value.rpartition(":")[2]) for _, value in pairs]
        assert mine == sorted(mine)
        numbers += mine
    assert sorted(numbers) == list(range(len(lines)))


def test_a_producer_that_is_in_use_is_busy(feeding: Feeding) -> None:
    read_end, write_end = os.pipe()
    holder = start_command(
        "holder", feeding.store_dir, "append", "--ack", "t", "--producer", "me", stdin=read_end
    )
    os.close(read_end)
    os.write(write_end, b"one\n")
    holder.wait_for_lines(1)
    ran = feeding(b"one\n", code=75)
    assert b"producer 'me' is in use" in ran.stderr and str(holder.process.pid).encode() in ran.stderr
    os.close(write_end)
    assert holder.wait() == 0
    feeding(b"one\ntwo\n")
    assert feeding.values() == ["one", "two"]


def test_skip_invalid_of_a_producer_skips_the_same_again(feeding: Feeding) -> None:
    feeding(b"a:1\nbroken\nb:2\n", "-K", ":", "--skip-invalid", code=1)
    feeding(b"a:1\nbroken\nb:2\nc:3\n", "-K", ":", "--skip-invalid", code=1)
    assert feeding.values() == ["1", "2", "3"]


def test_sequences_and_a_source_of_one_name_stay_apart_or_are_refused(feeding: Feeding) -> None:
    with library.open(str(feeding.store_dir)) as store:
        put(store, 0)
        put(store, 1)
    feeding(b"one\ntwo\n")
    feeding(b"one\ntwo\n")
    assert feeding.values() == ["me:0", "me:1", "one", "two"]


def test_acknowledgements_of_a_producer_name_what_was_appended(feeding: Feeding) -> None:
    ran = feeding(b"one\ntwo\n", "--ack")
    (row,) = map(json.loads, ran.stdout.splitlines())
    assert (row["first"], row["last"]) == (0, 1)
    assert feeding(None, "--ack").stdout == b""
    ran = feeding(b"one\ntwo\nthree\n", "--ack")
    (row,) = map(json.loads, ran.stdout.splitlines())
    assert (row["first"], row["last"]) == (2, 2)


def test_producers_and_others_write_at_once(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=65536))
    lines = b"".join(value_of("file", number) + b"\n" for number in range(5_000))
    (store_dir.parent / "file.txt").write_bytes(lines)
    workers = [
        start_worker("sequence", store_dir, "t", "api", "total=300"),
        start_worker("batch", store_dir, "t", "plain", "total=2000"),
        start_command(
            "file",
            store_dir,
            "append",
            "--ack",
            "t",
            "--producer",
            "file",
            str(store_dir.parent / "file.txt"),
        ),
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0], [worker.errors() for worker in workers]
    with library.open(str(store_dir)) as store:
        assert store.verify().ok
        assert check_records(read_all(store, "t", 1), map(acknowledged, workers)) == 7_300
