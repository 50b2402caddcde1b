"""Every form of input that ``pspf append`` takes, and what it makes of it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pspf as library
from pspf.model import TopicConfig
from tests.conftest import Pspf
from tests.support_processes import (
    Running,
    nothing_left_running,  # noqa: F401
    start_command,
    wait_until,
)


class Shell:
    """The command on one store, as a test says it: input in, records out."""

    def __init__(self, pspf: Pspf, store_dir: Path) -> None:
        self.pspf = pspf
        self.store_dir = store_dir

    def __call__(
        self, *args: str, input: bytes = b"", code: int = 0, quiet: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        ran = self.pspf("-s", self.store_dir, *args, input=input)
        assert ran.returncode == code, ran.stderr.decode()
        if quiet and code == 0:
            assert ran.stderr == b""
        return ran

    def append(self, input: bytes, *args: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        return self("append", "t", *args, input=input, code=code)

    def records(self, topic: str = "t") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("cat", "--json", topic).stdout.splitlines()]

    def values(self) -> list[Any]:
        return [record["value"] for record in self.records()]

    def keyed(self) -> list[tuple[Any, Any]]:
        return [(record["key"], record["value"]) for record in self.records()]


@pytest.fixture
def shell(pspf: Pspf, store_dir: Path) -> Shell:
    return Shell(pspf, store_dir)


# -- where a record ends


def test_lines(shell: Shell) -> None:
    shell.append(b"one\n\ntwo\r\nlast without its end")
    assert shell.values() == ["one", "", "two\r", "last without its end"]


def test_nul_ends_records(shell: Shell) -> None:
    shell.append(b"one\ntwo\0\0three", "-0")
    assert shell.values() == ["one\ntwo", "", "three"]


def test_a_separator_of_several_bytes_ends_records(shell: Shell) -> None:
    shell.append(b"one||two|three||", "-D", "||")
    assert shell.values() == ["one", "two|three"]


@pytest.mark.parametrize(
    ("text", "separator"), [(r"\t", b"\t"), (r"\0", b"\0"), (r"\x1e", b"\x1e"), (r"\n", b"\n")]
)
def test_escapes_in_a_separator(shell: Shell, text: str, separator: bytes) -> None:
    shell.append(separator.join((b"one", b"two")), "-D", text)
    assert shell.values() == ["one", "two"]


def test_a_separator_that_two_reads_cut_in_half(shell: Shell) -> None:
    read_end, write_end = os.pipe()
    running = start_command("halves", shell.store_dir, "append", "--ack", "-D", "<=>", "t", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"one<=>two<=")
    running.wait_for_lines(1)
    os.write(write_end, b">three")
    os.close(write_end)
    assert running.wait() == 0, running.errors()
    assert shell.values() == ["one", "two", "three"]


def test_whole_standard_input_is_one_record(shell: Shell) -> None:
    shell.append(b"one\ntwo\n", "-w")
    shell.append(b"", "-w")
    assert shell.values() == ["one\ntwo\n", ""]


def test_each_whole_file_is_a_record(shell: Shell, scratch_dir: Path) -> None:
    names = []
    for name, content in (("a", b"one\ntwo"), ("b", b""), ("c", bytes(300_000))):
        (scratch_dir / name).write_bytes(content)
        names.append(str(scratch_dir / name))
    shell.append(b"", "-w", *names)
    values = shell.values()
    assert values[:2] == ["one\ntwo", ""] and values[2] == "\0" * 300_000


def test_files_in_their_order_and_standard_input_among_them(shell: Shell, scratch_dir: Path) -> None:
    (scratch_dir / "a").write_bytes(b"a1\na2 without its end")
    (scratch_dir / "b").write_bytes(b"b1\n")
    shell.append(b"in1\nin2", str(scratch_dir / "a"), "-", str(scratch_dir / "b"))
    assert shell.values() == ["a1", "a2 without its end", "in1", "in2", "b1"]


def test_a_file_that_is_missing_is_said_before_anything_is_appended(shell: Shell, scratch_dir: Path) -> None:
    (scratch_dir / "a").write_bytes(b"a1\n")
    ran = shell.append(b"", str(scratch_dir / "a"), str(scratch_dir / "none"), code=66)
    assert b"none" in ran.stderr and b"no such file" in ran.stderr
    assert list(shell.store_dir.iterdir()) == []


def test_a_directory_as_a_file_is_refused(shell: Shell, scratch_dir: Path) -> None:
    ran = shell.append(b"", str(scratch_dir), code=2)
    assert b"it is a directory" in ran.stderr


# -- keys, headers, partitions, nulls


def test_the_key_ends_at_the_first_separator(shell: Shell) -> None:
    shell.append(b"k1:v1:more\n:empty key\nk2:\n", "-K", ":")
    assert shell.keyed() == [("k1", "v1:more"), ("", "empty key"), ("k2", "")]


def test_no_key_ok(shell: Shell) -> None:
    shell.append(b"k\tv\nno key\n", "-K", r"\t", "--no-key-ok")
    assert shell.keyed() == [("k", "v"), (None, "no key")]


def test_one_key_for_all(shell: Shell) -> None:
    shell.append(b"v1\nv2\n", "-k", "ключ")
    assert shell.keyed() == [("ключ", "v1"), ("ключ", "v2")]


def test_a_key_of_any_bytes(shell: Shell) -> None:
    ran = subprocess.run(
        [*shell.pspf.argv("-s", shell.store_dir, "append", "t", "-k"), b"\xff\xfe"],
        input=b"v\n",
        env=shell.pspf.environment(),
        check=False,
        capture_output=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert shell.records()[0]["key_base64"] == "//4="


def test_a_key_decides_the_partition(shell: Shell) -> None:
    shell("topic", "create", "-n", "8", "t")
    shell.append(b"".join(b"key%d:v%d\n" % (n % 5, n) for n in range(100)), "-K", ":")
    places: dict[str, set[int]] = {}
    for record in shell.records():
        places.setdefault(record["key"], set()).add(record["partition"])
        values = (
            [r["value"] for r in shell.records() if r["key"] == record["key"]]
            if record["offset"] == 0
            else []
        )
        assert values == sorted(values, key=lambda value: int(value[1:]))
    # crc32(key) % n, as librdkafka's `consistent`; these numbers are fixed for ever.
    assert places == {"key0": {6}, "key1": {0}, "key2": {2}, "key3": {4}, "key4": {7}}


def test_a_partition_by_its_number(shell: Shell) -> None:
    shell("topic", "create", "-n", "3", "t")
    shell.append(b"v1\nv2\n", "-p", "2", "-k", "key")
    assert [(r["partition"], r["offset"]) for r in shell.records()] == [(2, 0), (2, 1)]


def test_a_partition_that_is_not_there(shell: Shell) -> None:
    shell("topic", "create", "-n", "3", "t")
    ran = shell.append(b"v\n", "-p", "3", code=66)
    assert b"no partition 3 in topic 't'" in ran.stderr
    assert b"hint: pspf topic add-partitions t" in ran.stderr


def test_headers(shell: Shell) -> None:
    shell.append(b"v1\nv2\n", "-H", "source=web", "-H", "empty=", "-H", "a=b=c")
    wanted = [["source", "web"], ["empty", ""], ["a", "b=c"]]
    assert [record["headers"] for record in shell.records()] == [wanted, wanted]


def test_an_empty_value_is_null(shell: Shell) -> None:
    shell.append(b"v\n\n", "-Z")
    shell.append(b"k:\n", "-Z", "-K", ":")
    assert shell.keyed() == [(None, "v"), (None, None), ("k", None)]


# -- envelopes


def test_envelopes(shell: Shell) -> None:
    lines = [
        {"value": "v1"},
        {"key": "k", "value": None, "headers": [["h", "x"], ["n", None], ["b", None, "/w=="]]},
        {"value_base64": "//4=", "key_base64": ""},
        {"topic": "elsewhere", "partition": 7, "offset": 3, "timestamp": 5, "value": "places are ignored"},
    ]
    shell.append("".join(json.dumps(line) + "\n" for line in lines).encode(), "--json")
    records = shell.records()
    assert [(r["partition"], r["offset"]) for r in records] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert [r.get("value") for r in records] == ["v1", None, None, "places are ignored"]
    assert records[1]["headers"] == [["h", "x"], ["n", None], ["b", None, "/w=="]]
    assert records[2]["value_base64"] == "//4=" and records[2]["key"] == ""
    assert records[3]["timestamp"] != 5


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_preserve_reproduces_all_seven_fields(shell: Shell, compression: str) -> None:
    shell("topic", "create", "-n", "3", "t", "--compression", compression)
    records: list[dict[str, Any]] = []
    for n in range(60):
        records.append(
            {
                "topic": "t",
                "partition": n % 3,
                "offset": 5 + n // 3 * (7 if n > 30 else 1),
                "timestamp": (1_700_000_000_000 - n, -5, 0, 2**62)[n % 4] if n % 5 else n,
                "key": (None, "", "k", "ключ")[n % 4],
                "value": (None, "", "v" * n, "\0\n")[n // 2 % 4],
                "headers": [[], [["h", "x"], ["h", "y"]], [["n", None]], [["b", None, "/w=="]]][n % 4],
            }
        )
        if n % 7 == 0:
            del records[-1]["value"], records[-1]["key"]
            records[-1] |= {"value_base64": "//79", "key_base64": "gA=="}
    shell.append("".join(json.dumps(r) + "\n" for r in records).encode(), "--json", "--preserve")
    printed = shell("cat", "--json", "t").stdout
    assert by_place(map(json.loads, printed.splitlines())) == by_place(records)
    copy = Shell(shell.pspf, shell.store_dir.parent / "copy")
    copy("topic", "create", "-n", "3", "t")
    copy("append", "t", "--json", "--preserve", input=printed)
    assert copy("cat", "--json", "t").stdout == printed
    assert copy("verify", code=0, quiet=False)
    with library.open(str(copy.store_dir)) as store:
        # Behind a gap the log goes on.
        assert store.append("t", b"v", partition=0).first == max(r["offset"] for r in records[::3]) + 1


def by_place(records: Any) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: (record["partition"], record["offset"]))


def test_preserve_refuses_an_offset_that_is_taken(shell: Shell) -> None:
    shell.append(b"v0\nv1\n")
    line = {"partition": 0, "offset": 1, "value": "again"}
    ran = shell.append(json.dumps(line).encode() + b"\n", "--json", "--preserve", code=65)
    assert b"cannot keep offset 1" in ran.stderr
    assert shell.values() == ["v0", "v1"]


def test_preserve_refuses_offsets_that_go_back_and_keeps_what_came_before(shell: Shell) -> None:
    lines = [{"partition": 0, "offset": offset, "value": f"v{offset}"} for offset in (3, 4, 4, 5)]
    ran = shell.append(
        "".join(json.dumps(line) + "\n" for line in lines).encode(), "--json", "--preserve", code=65
    )
    assert b"line 3" in ran.stderr
    assert [(r["offset"], r["value"]) for r in shell.records()] == [(3, "v3"), (4, "v4")]


def test_preserve_leaves_out_more_offsets_than_one_batch_can_span(shell: Shell) -> None:
    offsets = [0, 1, 1 << 32, (1 << 32) + 1, 5 << 32]
    lines = [{"partition": 0, "offset": offset, "value": f"v{offset}"} for offset in offsets]
    shell.append("".join(json.dumps(line) + "\n" for line in lines).encode(), "--json", "--preserve")
    assert [(r["offset"], r["value"]) for r in shell.records()] == [(o, f"v{o}") for o in offsets]


def test_preserve_refuses_an_offset_that_would_fill_the_disk_with_gaps(shell: Shell) -> None:
    lines = [{"partition": 0, "offset": offset, "value": "v"} for offset in (0, 1 << 60)]
    ran = shell.append(
        "".join(json.dumps(line) + "\n" for line in lines).encode(), "--json", "--preserve", code=65
    )
    assert b"line 2" in ran.stderr and b"left out" in ran.stderr
    assert [r["offset"] for r in shell.records()] == [0]


def test_preserve_needs_json(shell: Shell) -> None:
    ran = shell.append(b"v\n", "--preserve", code=2)
    assert b"--preserve needs --json" in ran.stderr


# -- times


@pytest.mark.parametrize(
    ("text", "ms"),
    [("1700000000000", 1_700_000_000_000), ("2024-05-01T12:00:00Z", 1_714_564_800_000), ("-7", -7)],
)
def test_one_timestamp_for_all(shell: Shell, text: str, ms: int) -> None:
    shell.append(b"v1\nv2\n", f"--timestamp={text}")
    assert [record["timestamp"] for record in shell.records()] == [ms, ms]


def test_timestamps_from_a_field_of_the_value(shell: Shell) -> None:
    shell.append(
        b'{"a": {"t": 5}}\n{"a": {"t": "2024-05-01T12:00:00Z"}}\n{"a": {"t": 6.7}}\n',
        "--timestamp-field",
        ".a.t",
    )
    assert [r["timestamp"] for r in shell.records()] == [5, 1_714_564_800_000, 6]


@pytest.mark.parametrize(
    "value", [b"no json", b'{"b": 1}', b'{"a": true}', b'{"a": "soon"}', b'{"a": 1e300}']
)
def test_a_value_without_the_timestamp_field(shell: Shell, value: bytes) -> None:
    ran = shell.append(b'{"a": 5}\n' + value + b'\n{"a": 6}\n', "--timestamp-field", ".a", code=65)
    assert b"line 2" in ran.stderr and b"1 record before it was appended" in ran.stderr
    assert [r["timestamp"] for r in shell.records()] == [5]
    shell.append(value + b'\n{"a": 7}\n', "--timestamp-field", ".a", "--skip-invalid", code=1)
    assert [r["timestamp"] for r in shell.records()] == [5, 7]


# -- acknowledgements


def test_ack_is_a_line_for_each_batch(shell: Shell) -> None:
    shell("topic", "create", "-n", "2", "t", "--durability", "os")
    ran = shell.append(b"a:1\nb:2\nc:3\n", "-K", ":", "--ack")
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert all(list(row) == ["topic", "partition", "first", "last", "durability"] for row in rows)
    assert {row["topic"] for row in rows} == {"t"} and {row["durability"] for row in rows} == {"os"}
    assert sum(row["last"] - row["first"] + 1 for row in rows) == 3


def test_durability_of_one_call(shell: Shell) -> None:
    for level in ("os", "interval", "sync"):
        ran = shell.append(b"v\n", "--durability", level, "--ack")
        assert json.loads(ran.stdout)["durability"] == level
    assert shell.values() == ["v"] * 3


@pytest.mark.parametrize("options", [[], ["-k", "key"], ["-D", r"\n"], ["--producer", "me"]])
def test_what_is_there_when_the_input_pauses_is_durable_at_once(shell: Shell, options: list[str]) -> None:
    read_end, write_end = os.pipe()
    running = start_command("pauses", shell.store_dir, "append", "--ack", "t", *options, stdin=read_end)
    os.close(read_end)
    for number in range(3):
        os.write(write_end, b"v%d\nunfinished" % number)
        wait_until(lambda: end_of(running) == 2 * number + 1, "the acknowledgement")  # noqa: B023
        with library.open(str(shell.store_dir), read_only=True) as store:
            (info,) = store.describe("t").partitions
            assert info.end == info.written == 2 * number + 1
        os.write(write_end, b"\n")
        wait_until(lambda: end_of(running) == 2 * number + 2, "the rest")  # noqa: B023
    os.close(write_end)
    assert running.wait() == 0, running.errors()


def end_of(running: Running) -> int:
    """The offset behind the last record that was acknowledged."""
    assert running.process.poll() is None, running.errors()
    lines = running.lines()
    return int(json.loads(lines[-1])["last"]) + 1 if lines else 0


def test_no_create(shell: Shell) -> None:
    ran = shell.append(b"v\n", "--no-create", code=66)
    assert b"no store in" in ran.stderr
    shell("append", "other", input=b"v\n")
    ran = shell.append(b"v\n", "--no-create", code=66)
    assert b"no topic 't'" in ran.stderr and b"hint: pspf topic create t" in ran.stderr
    assert shell("ls").stdout.count(b"\n") == 2


def test_expect_offset(shell: Shell) -> None:
    shell.append(b"v0\nv1\n", "--expect-offset", "0")
    ran = shell.append(b"v\n", "--expect-offset", "0", code=1)
    assert b"its end is 2" in ran.stderr
    shell.append(b"v2\nv3\n", "--expect-offset", "2")
    assert shell.values() == ["v0", "v1", "v2", "v3"]


def test_expect_offset_holds_for_each_batch_of_the_input(shell: Shell) -> None:
    read_end, write_end = os.pipe()
    running = start_command(
        "expects", shell.store_dir, "append", "--ack", "--expect-offset", "0", "t", stdin=read_end
    )
    os.close(read_end)
    os.write(write_end, b"mine\n")
    running.wait_for_lines(1)
    shell.append(b"of another\n")
    os.write(write_end, b"mine\n")
    os.close(write_end)
    assert running.wait() == 1
    assert "at offset 1" in running.errors() and "its end is 2" in running.errors()
    assert shell.values() == ["mine", "of another"]


def test_a_topic_and_its_store_are_created_and_that_is_said_once(shell: Shell) -> None:
    ran = shell.pspf("-s", shell.store_dir, "-v", "append", "t", input=b"v\n")
    assert ran.returncode == 0
    assert ran.stderr.count(b"created store") == ran.stderr.count(b"created topic t") == 1
    ran = shell.pspf("-s", shell.store_dir, "-v", "append", "t", input=b"v\n")
    assert b"created" not in ran.stderr


def test_more_than_a_chunk_of_lines_and_of_keyed_lines(shell: Shell) -> None:
    lines = b"".join(b"%07d:%s\n" % (n, b"x" * 90) for n in range(30_000))
    shell.append(lines)
    shell("append", "keyed", "-K", ":", input=lines)
    assert shell("cat", "t").stdout == lines
    assert shell("cat", "-K", ":", "keyed").stdout == lines


def test_records_larger_than_a_segment(shell: Shell) -> None:
    with library.open(str(shell.store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=65536))
    values = [bytes([65 + n]) * size for n, size in enumerate((10, 200_000, 70_000, 3, 1_500_000))]
    shell.append(b"\n".join(values))
    assert shell("cat", "t").stdout == b"".join(value + b"\n" for value in values)
