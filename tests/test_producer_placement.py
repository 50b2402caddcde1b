"""``--producer`` and where its records go: other options, whole files, and partitions that are added."""

import random
import threading
from pathlib import Path
from zlib import crc32

import pytest

import pspf as library
from pspf.format.encode import encode_lines
from pspf.format.producers import id_of
from pspf.log.producers import ProducerCheck
from tests.conftest import Pspf
from tests.support_processes import (
    nothing_left_running,  # noqa: F401
    start_command,
)
from tests.test_producers import Feeding


@pytest.fixture
def feeding(pspf: Pspf, store_dir: Path) -> Feeding:
    return Feeding(pspf, store_dir)


def add_partitions(feeding: Feeding, total: int) -> None:
    with library.open(str(feeding.store_dir)) as store:
        store.add_partitions("t", total)


def rows(feeding: Feeding) -> list[tuple[int, "bytes | None", "bytes | None"]]:
    with library.open(str(feeding.store_dir)) as store:
        assert store.verify().ok
        return [(record.partition, record.key, record.value) for record in store.read("t")]


# -- other options


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["-K", ":"]),
        (["-K", ":"], []),
        (["-K", ":"], ["-K", "="]),
        ([], ["-k", "key"]),
        (["-k", "key"], ["-k", ""]),
        ([], ["-p", "0"]),
        (["-p", "0"], []),
        ([], ["-D", r"\n\n"]),
        ([], ["-0"]),
        ([], ["-w"]),
        (["-w"], []),
        ([], ["--json"]),
    ],
)
def test_other_options_of_placement_are_refused_instead_of_appending_everything_again(
    feeding: Feeding, partitions: int, before: list[str], after: list[str]
) -> None:
    feeding.partitions(partitions)
    content = b'{"key":"a=:","value":"1"}\n{"key":"b=:","value":"2"}\n'
    feeding(content, *before)
    stored = rows(feeding)
    ran = feeding(content + b"\n", *after, code=65)
    assert b"producer 'me'" in ran.stderr and b"options" in ran.stderr and b"--new-source" in ran.stderr
    assert rows(feeding) == stored
    feeding(content, *before)
    assert rows(feeding) == stored
    feeding(content, *after, "--new-source")
    feeding(content, *after)
    assert len(rows(feeding)) > len(stored)


def test_other_partitions_are_refused_instead_of_appending_everything_again(feeding: Feeding) -> None:
    feeding.partitions(3)
    feeding(b"one\n", "-p", "1")
    feeding(b"one\n", "-p", "2", code=65)
    assert [row[0] for row in rows(feeding)] == [1]


def test_options_that_change_neither_place_nor_ends_may_change(feeding: Feeding) -> None:
    feeding.partitions(3)
    content = b"a:1\nb:2\n"
    feeding(content, "-K", ":")
    feeding(content, "-K", ":", "-H", "from=x", "-Z", "--timestamp", "5", "--durability", "os")
    feeding(content + b"no key\n", "-K", ":", code=65)
    feeding(content + b"no key\n", "-K", ":", "--no-key-ok")
    assert len(rows(feeding)) == 3


def test_a_log_that_does_not_say_how_its_records_were_placed_goes_on(feeding: Feeding) -> None:
    content = b"one\ntwo\n"
    with library.open(str(feeding.store_dir)) as store:
        topic, _ = store.ensure_topic("t")
        check = ProducerCheck(id_of("me"), "me", None, len(content), crc32(content), 1, 0)
        encoded = encode_lines(content, content.splitlines(), 0, False)
        store.partition_writer(topic, 0).append(encoded, None, check)
    feeding(content + b"three\n")
    feeding(content + b"three\nfour\n")
    feeding(content + b"three\nfour\n", "-k", "key", code=65)
    assert feeding.values() == ["one", "two", "three", "four"]


# -- whole files


def whole(feeding: Feeding, *contents: bytes, code: int = 0) -> str:
    names = []
    for number, content in enumerate(contents):
        path = feeding.store_dir.parent / f"whole{number}"
        path.write_bytes(content)
        names.append(str(path))
    ran = feeding.pspf("-s", feeding.store_dir, "append", "t", "--producer", "me", "-v", "-w", *names)
    assert ran.returncode == code, ran.stderr.decode()
    return ran.stderr.decode()


@pytest.mark.parametrize("partitions", [1, 3])
def test_empty_whole_files_of_a_producer_are_records(feeding: Feeding, partitions: int) -> None:
    feeding.partitions(partitions)
    contents = [b"", b"one", b"", b"", b"two\n", b""]
    for end in (1, 1, 3, 4, 4, 6, 6):
        told = whole(feeding, *contents[:end])
    assert "appended 0 records" in told and "6 records had been appended before" in told
    assert sorted(value or b"" for _, _, value in rows(feeding)) == sorted(contents)


def test_whole_files_that_end_elsewhere_are_another_input(feeding: Feeding) -> None:
    whole(feeding, b"ab", b"c")
    for other in ([b"a", b"bc"], [b"abc"], [b"ab", b"", b"c"]):
        assert "another input" in whole(feeding, *other, code=65)
    whole(feeding, b"ab", b"c", b"d")
    assert feeding.values() == ["ab", "c", "d"]


# -- partitions that are added


def placed_by(records: "list[tuple[int, bytes | None, bytes | None]]", counts: dict[int, int]) -> None:
    """``counts``: from record N on, by how many partitions; each record is there once."""
    numbers = []
    for partition, key, value in records:
        number = int(value or b"")
        count = counts[max(first for first in counts if first <= number)]
        assert partition == crc32(key or b"") % count, (number, partition)
        numbers.append(number)
    assert sorted(numbers) == list(range(len(numbers)))


LINES = [b"key%d:%d\n" % (n % 17, n) for n in range(600)]


@pytest.mark.parametrize("again", [False, True])
def test_records_behind_what_was_appended_are_placed_by_the_new_count(feeding: Feeding, again: bool) -> None:
    feeding.partitions(2)
    feeding(b"".join(LINES[:150]), "-K", ":")
    counts = {0: 2}
    for end, total in ((300, 6), (301, 7), (450, 7), (600, 16)):
        counts.setdefault(len(rows(feeding)), total)
        if total != max(list(counts.values())[:-1]):
            add_partitions(feeding, total)
        if again:
            feeding(None, "-K", ":")
        feeding(b"".join(LINES[:end]), "-K", ":")
        if again:
            feeding(None, "-K", ":")
        placed_by(rows(feeding), counts)
    assert len(rows(feeding)) == 600


def test_the_count_is_remembered_over_rolls_and_by_tables(feeding: Feeding) -> None:
    feeding.partitions(1)
    feeding(b"".join(LINES[:10]), "-K", ":")
    add_partitions(feeding, 3)
    feeding(b"".join(LINES[:20]), "-K", ":")
    with library.open(str(feeding.store_dir)) as store:
        for partition in range(3):
            for _ in range(20):
                store.append("t", bytes(9_000), key="other", partition=partition)
    feeding(b"".join(LINES[:20]), "-K", ":")
    feeding(b"".join(LINES[:30]), "-K", ":")
    placed_by([row for row in rows(feeding) if row[1] != b"other"], {0: 1, 10: 3})


def test_a_last_line_without_its_end_where_the_count_changes(feeding: Feeding) -> None:
    feeding.partitions(2)
    feeding(b"".join(LINES[:20])[:-1], "-K", ":")
    add_partitions(feeding, 5)
    feeding(b"".join(LINES[:20]), "-K", ":")
    feeding(b"".join(LINES[:40])[:-1], "-K", ":")
    feeding(b"".join(LINES[:60]), "-K", ":")
    placed_by(rows(feeding), {0: 2, 20: 5})


def test_a_last_line_that_grew_where_the_count_changes_is_refused(feeding: Feeding) -> None:
    feeding.partitions(2)
    feeding(b"a:1\nb:2", "-K", ":")
    add_partitions(feeding, 5)
    ran = feeding(b"a:1\nb:23\nc:4\n", "-K", ":", code=65)
    assert b"has grown since" in ran.stderr
    assert len(rows(feeding)) == 2


def test_lines_without_keys_use_the_partitions_that_were_added(feeding: Feeding) -> None:
    feeding.partitions(1)
    content = b"".join(b"%0100d\n" % n for n in range(50_000))
    half = content[: len(content) // 2 // 101 * 101]
    feeding(half)
    add_partitions(feeding, 3)
    feeding(content)
    feeding(content)
    found = rows(feeding)
    assert sorted(int(value or b"") for _, _, value in found) == list(range(50_000))
    assert {partition for partition, _, _ in found} == {0, 1, 2}


def test_kill_and_add_partitions_and_again_appends_each_line_once(feeding: Feeding) -> None:
    rng = random.Random(5)
    feeding.partitions(2)
    lines = [b"key%d:%d\n" % (n % 17, n) for n in range(60_000)]
    feeding.file.write_bytes(b"".join(lines))
    argv = ["append", "t", "--producer", "me", "-K", ":"]
    for total in (3, 5, 6, 9, 13):
        running = start_command(f"killed{total}", feeding.store_dir, *argv, str(feeding.file))
        killer = threading.Timer(rng.uniform(0.05, 0.3), running.kill)
        killer.start()
        killer.join()
        add_partitions(feeding, total)
    feeding(None, "-K", ":")
    feeding(None, "-K", ":")
    assert sorted(int(value or b"") for _, _, value in rows(feeding)) == list(range(len(lines)))
