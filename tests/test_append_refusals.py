"""What ``pspf append`` refuses or leaves out: it says which line, and how many records went in before it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pspf as library
from pspf import errors
from pspf.model import TopicConfig
from pspf.store.feed import CHUNK_BYTES, FeedOptions, FeedReport, feed
from pspf.store.store import Store
from tests.conftest import Pspf
from tests.support_processes import (
    nothing_left_running,  # noqa: F401
    start_command,
)
from tests.test_append_forms import Shell

LIMIT = 1000
FAR_ABOVE = LIMIT + 3 * CHUNK_BYTES


@pytest.fixture
def shell(pspf: Pspf, store_dir: Path) -> Shell:
    return Shell(pspf, store_dir)


@pytest.fixture
def store(store_dir: Path) -> Iterator[Store]:
    with library.open(str(store_dir)) as opened:
        yield opened


# -- --expect-offset


@pytest.mark.parametrize("options", [[], ["-K", ":"], ["-k", "key"]])
def test_expect_offset_of_several_partitions_is_refused_instead_of_appending_a_part(
    shell: Shell, options: list[str]
) -> None:
    shell("topic", "create", "-n", "3", "t")
    lines = b"".join(b"key%d:v\n" % n for n in range(20))
    ran = shell.append(lines, "--expect-offset", "0", *options, code=2)
    assert b"--expect-offset" in ran.stderr and b"3 partitions" in ran.stderr and b"-p N" in ran.stderr
    assert shell.records() == []
    shell.append(lines, "--expect-offset", "0", "-p", "1", *options)
    assert len(shell.records()) == 20


def test_an_offset_that_conflicts_in_the_middle_says_how_much_went_in(
    store: Store, scratch_dir: Path
) -> None:
    path = scratch_dir / "lines"
    line = b"x" * 99 + b"\n"
    path.write_bytes(line * 60_000)
    with library.open(store.path) as other:
        told: list[int] = []

        def interfere() -> bool:
            if not told and store.find_topic("t") is not None and store.stats("t").records:
                told.append(1)
                other.append("t", b"of another")
            return False

        with pytest.raises(errors.OffsetConflict) as caught:
            feed(store, "t", [str(path)], FeedOptions(expect_offset=0), None, None, interfere)
        end = store.describe("t").partitions[0].end
    assert f"{end - 1} records before it were appended" in str(caught.value)
    assert 0 < end - 1 < 60_000


# -- --skip-invalid and records far above the limit


def fed(store: Store, data: bytes, scratch_dir: Path, **options: object) -> FeedReport:
    path = scratch_dir / "input"
    path.write_bytes(data)
    if store.find_topic("t") is None:
        store.create_topic("t", TopicConfig(max_record_bytes=LIMIT))
    return feed(store, "t", [str(path)], FeedOptions(**options))  # type: ignore[arg-type]


FORMS: "dict[str, tuple[bytes, dict[str, object]]]" = {
    "lines": (b"\n", {}),
    "keys": (b"\n", {"key_separator": b":", "key_optional": True}),
    "nul": (b"\0", {"separator": b"\0"}),
    "several bytes": (b"<=>", {"separator": b"<=>"}),
    "producer": (b"\n", {"producer": "me"}),
    "producer, several bytes": (b"<=>", {"producer": "me", "separator": b"<=>"}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("more", range(4))
def test_skip_invalid_goes_on_behind_a_record_far_above_the_limit(
    store: Store, scratch_dir: Path, form: str, more: int
) -> None:
    separator, options = FORMS[form]
    far = b"f" * (FAR_ABOVE + more)
    records = [b"one", far, b"two", b"f" * (LIMIT + 1), far, far[1:], b"three", far]
    for end in (len(records), len(records) + 1):
        data = separator.join([*records, b"four"][:end])
        report = fed(store, data, scratch_dir, skip_invalid=True, **options)
        assert report.invalid == 5
        if "producer" not in options:
            break
    stored = [record.value for record in store.read("t")]
    assert stored == [b"one", b"two", b"three", b"four"][: 4 if "producer" in options else 3]


@pytest.mark.parametrize("producer", [None, "me"])
def test_skip_invalid_goes_on_behind_a_whole_file_far_above_the_limit(
    store: Store, scratch_dir: Path, producer: "str | None"
) -> None:
    store.create_topic("t", TopicConfig(max_record_bytes=LIMIT))
    names = []
    for number, content in enumerate((b"one", bytes(FAR_ABOVE), b"", bytes(LIMIT + 1), b"two")):
        (scratch_dir / str(number)).write_bytes(content)
        names.append(str(scratch_dir / str(number)))
    for again in range(2):
        report = feed(store, "t", names, FeedOptions(whole=True, skip_invalid=True, producer=producer))
        assert report.invalid == 2
        if producer is None:
            break
        assert report.skipped == 3 * again
    assert [record.value for record in store.read("t")] == [b"one", b"", b"two"]


@pytest.mark.parametrize("form", FORMS)
def test_a_record_far_above_the_limit_is_named_by_its_line(
    store: Store, scratch_dir: Path, form: str
) -> None:
    separator, options = FORMS[form]
    data = separator.join([b"one", b"two", b"f" * FAR_ABOVE, b"three"])
    with pytest.raises(errors.RecordTooLarge) as caught:
        fed(store, data, scratch_dir, **options)
    unit = "line" if separator == b"\n" else "record"
    assert f"input, {unit} 3)" in str(caught.value)
    assert "2 records before it were appended" in str(caught.value)


def test_the_first_record_that_was_left_out_is_named(shell: Shell) -> None:
    shell("topic", "create", "--max-record-bytes", str(LIMIT), "t")
    data = b"one\n" + b"f" * FAR_ABOVE + b"\ntwo\n" + b"f" * FAR_ABOVE
    ran = shell.append(data, "--skip-invalid", code=1)
    assert ran.stderr == b"pspf: skipped 2 malformed records, appended 2; the first: standard input, line 2\n"


# -- --json --preserve


def envelopes(*places: tuple[int, int]) -> bytes:
    lines = [{"partition": p, "offset": o, "value": f"{p}.{o}"} for p, o in places]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ([(0, 0), (5, 0), (1, 0), (0, 1)], b"no partition 5"),
        ([(0, 3), (0, 3), (1, 0), (0, 4)], b"cannot keep offset 3"),
        ([(0, 3), (0, 1), (1, 0), (0, 4)], b"cannot keep offset 1"),
        ([(0, 0), (0, 1 << 60), (1, 0), (0, 1)], b"may be left out"),
    ],
)
def test_a_place_that_cannot_be_preserved_is_a_malformed_line(
    shell: Shell, places: list[tuple[int, int]], why: bytes
) -> None:
    shell("topic", "create", "-n", "2", "t")
    ran = shell.append(envelopes(*places), "--json", "--preserve", code=65)
    assert why in ran.stderr and b"line 2" in ran.stderr and b"1 record before it was appended" in ran.stderr
    assert b"--skip-invalid" in ran.stderr
    assert len(shell.records()) == 1
    again = [(p, o + 20) for p, o in places]
    ran = shell.append(envelopes(*again), "--json", "--preserve", "--skip-invalid", code=1)
    assert b"skipped 1 malformed record, appended 3" in ran.stderr and b"line 2" in ran.stderr
    stored = [(r["partition"], r["offset"]) for r in shell.records() if r["offset"] >= 20]
    assert sorted(stored) == sorted([again[0], *again[2:]])


# -- separators and fields


def test_a_separator_that_overlaps_itself_at_the_end_of_what_was_read_loses_nothing(shell: Shell) -> None:
    read_end, write_end = os.pipe()
    running = start_command("overlaps", shell.store_dir, "append", "--ack", "-D", "||", "t", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"one|||")
    running.wait_for_lines(1)
    os.write(write_end, b"two||")
    os.close(write_end)
    assert running.wait() == 0, running.errors()
    assert shell.values() == ["one", "|two"]


@pytest.mark.parametrize("field", ["", ".", ".."])
def test_a_timestamp_field_without_a_name_is_refused(shell: Shell, field: str) -> None:
    ran = shell.append(b'{"t": 5}\n', "--timestamp-field", field, code=2)
    assert b"--timestamp-field" in ran.stderr
    assert shell("ls").stdout.count(b"\n") <= 1
