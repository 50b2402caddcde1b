"""What is printed: plain tables for awk, JSON lines, times, sizes, and words that stand for bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.cli.main import Invocation
from pspf.cli.output import escape, json_line, json_lines, size_text, table, time_text
from pspf.cli.text import headers_of, separator_bytes, size_bytes
from pspf.errors import Usage

COLUMNS = (("topic", "TOPIC", "text"), ("bytes", "BYTES", "size"), ("last_ms", "LAST", "time"))


def test_table_in_a_pipe_is_aligned_text_with_exact_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"topic": "orders", "bytes": 123456789, "last_ms": 0},
        {"topic": "a", "bytes": 1, "last_ms": None},
    ]
    table(Invocation(color="never"), COLUMNS, rows)
    assert capsys.readouterr().out == (
        "TOPIC       BYTES  LAST\norders  123456789  1970-01-01T00:00:00.000Z\na               1  -\n"
    )


def test_table_without_rows_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    table(Invocation(), COLUMNS, [])
    assert capsys.readouterr().out == ""


def test_colour_can_be_forced_in_a_pipe_and_forbidden_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table(Invocation(color="always"), COLUMNS, [{"topic": "orders", "bytes": 1, "last_ms": 0}])
    assert "\x1b[1m" in capsys.readouterr().out


def test_json_is_one_object_a_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    # In a process of its own: the lines go round the text layer that the test replaces.
    code = "from pspf.cli.output import json_lines; json_lines([{'b': 1, 'a': b'\\xff'}, {'c': None}])"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfdbinary.readouterr().out == b'{"b":1,"a":"\\\\xff"}\n{"c":null}\n'
    assert callable(json_lines)


def test_json_of_what_orjson_refuses() -> None:
    row = {"beyond": 1 << 64, "below": -(1 << 64), "name": "\udcff", "bytes": b"\xff"}
    line = json_line(row)
    assert json.loads(line) == {**row, "bytes": "\\xff"} and line.endswith(b"}\n") and line.count(b"\n") == 1
    assert json_line({"a": 1, "b": [2]}) == b'{"a":1,"b":[2]}\n'


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1714564800123, "2024-05-01T12:00:00.123Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1 << 62, f"{1 << 62} ms"),
    ],
)
def test_time_is_utc_with_a_z_or_the_number_it_is(time_ms: int, text: str) -> None:
    assert time_text(time_ms) == text


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_stored_time_can_be_printed(time_ms: int) -> None:
    assert time_text(time_ms)
    assert time_text(time_ms, local=True)


def test_sizes_as_people_read_them() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 64 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "64.0 MiB",
        "3.0 TiB",
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("100", 100),
        ("64KiB", 65536),
        ("1 MiB", 1 << 20),
        ("2G", 2 << 30),
        ("64k", 65536),
        ("1MB", 10**6),
        ("7B", 7),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert size_bytes("--segment-bytes", text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5MiB", "1XiB", "1KiBB", "1 2", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        size_bytes("--segment-bytes", text)


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        (":", b":"),
        ("\\t", b"\t"),
        ("\\0", b"\0"),
        ("\\x1F", b"\x1f"),
        ("a\\nb", b"a\nb"),
        ("\\\\", b"\\"),
        ("→", "→".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_separator_stands_for_bytes(text: str, separator: bytes) -> None:
    assert separator_bytes("-D", text) == separator


@pytest.mark.parametrize("text", ["", "\\", "\\q", "\\x", "\\x1", "\\xgg", "\\x 1"])
def test_what_is_no_separator_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        separator_bytes("-D", text)


def test_headers_keep_their_order_and_bytes() -> None:
    assert headers_of(["a=1", "b==", "a=", "c=\udcff"]) == (
        ("a", b"1"),
        ("b", b"="),
        ("a", b""),
        ("c", b"\xff"),
    )


@pytest.mark.parametrize("pair", ["", "=", "=1", "name"])
def test_what_is_no_header_is_refused(pair: str) -> None:
    with pytest.raises(Usage):
        headers_of([pair])


@given(st.text())
def test_nothing_that_drives_a_terminal_is_printed(text: str) -> None:
    escaped: Any = escape(text)
    assert escaped.isprintable() and escaped.isascii() >= text.isascii()
