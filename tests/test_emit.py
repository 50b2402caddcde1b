"""What cat and tail write: formats, limits, damage, following, and an output that does not keep up."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pspf
from pspf import errors
from pspf.store.emit import EmitReport, Output, OutputFormat, emit
from pspf.store.formats import for_terminal
from pspf.store.select import Selection
from pspf.store.store import Store
from tests.conftest import ROOT
from tests.fake_partitions import FakeReader, FakeStore, Row, cut, lines

ROWS: list[Row] = [
    (1000, b"k", b"one"),
    (2000, None, b""),
    (3000, b"", None),
    (4000, b"k", b"a\nb"),
    (4000, b"k", b"\xff"),
]


class Sink:
    """A pipe that somebody reads to its end."""

    def __init__(self) -> None:
        self.reads, self.fd = os.pipe()
        self.data = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self.reads, 1 << 16):
            self.data += piece

    def close(self) -> bytes:
        os.close(self.fd)
        self._thread.join()
        os.close(self.reads)
        return self.data


def out_of(store: Any, **how: Any) -> tuple[bytes, EmitReport]:
    sink = Sink()
    try:
        report = emit(store, "t", fd=sink.fd, **how)
    finally:
        data = sink.close()
    return data, report


def shown(rows: list[Row] = ROWS, **options: Any) -> bytes:
    store = FakeStore(FakeReader(0, cut(rows, [2])))
    return out_of(store, output_format=OutputFormat(**options))[0]


# -- formats


def test_a_value_and_a_newline() -> None:
    assert shown() == b"one\n\n\na\nb\n\xff\n"
    assert shown(null=b"NULL") == b"one\n\nNULL\na\nb\n\xff\n"


def test_other_separators() -> None:
    assert shown(separator=b"\0") == b"one\0\0\0a\nb\0\xff\0"
    assert shown(separator=b"--", null=b"-") == b"one----" + b"-" + b"--a\nb--\xff--"
    assert shown([(1, None, b"a"), (1, None, b"b")], separator=b"\0") == b"a\0b\0"


def test_the_key_goes_first() -> None:
    assert shown(key_separator=b":") == b"k:one\n:\n:\nk:a\nb\nk:\xff\n"
    assert shown(key_separator=b"\t", null=b"~") == b"k\tone\n~\t\n\t~\nk\ta\nb\nk\t\xff\n"


def test_every_letter_of_a_format() -> None:
    assert shown(format="%t %p %o %k %K %s %S %T %d %h;%%\\n\\t\\x41\\\\\\0|") == b"".join(
        b"t 0 %d %s %d %s %d %d 1970-01-01T00:00:0%d.000Z ;%%\n\tA\\\0|" % row
        for row in [
            (0, b"k", 1, b"one", 3, 1000, 1),
            (1, b"", -1, b"", 0, 2000, 2),
            (2, b"", 0, b"", -1, 3000, 3),
            (3, b"k", 1, b"a\nb", 3, 4000, 4),
            (4, b"k", 1, b"\xff", 1, 4000, 4),
        ]
    )
    assert shown(format="%s", null=b"NUL") == b"oneNULa\nb\xff"
    assert shown(format="x\\n") == b"x\n" * 5
    assert shown(format="") == b""
    assert shown(format="é%%\\x25%p", rows=ROWS[:1]) == "é%%0".encode()


def test_headers_in_a_format(store: Store) -> None:
    store.append("t", b"v", headers=[("a", b"1"), ("b", None), ("c", b"")])
    store.append("t", b"w")
    assert out_of(store, output_format=OutputFormat(format="%h|"))[0] == b"a=1,b=NULL,c=||"
    assert out_of(store, output_format=OutputFormat(format="%h|", null=b"-"))[0] == b"a=1,b=-,c=||"


@pytest.mark.parametrize("text", ["%", "%x", "% ", "%s %R", "\\", "\\q", "\\x4", "\\xzz", "\\x", "a%"])
def test_a_format_that_means_nothing_is_refused_before_anything_is_written(text: str) -> None:
    with pytest.raises(errors.Usage) as caught:
        shown(format=text)
    assert "%t" in caught.value.hint and "\n" not in caught.value.hint


@given(st.text(max_size=10))
def test_any_format_works_or_is_refused(text: str) -> None:
    try:
        shown(format=text)
    except errors.Usage:
        pass


def test_envelopes_are_one_a_line() -> None:
    found = [json.loads(line) for line in shown(json=True).splitlines()]
    assert [(e["offset"], e.get("key"), e.get("value")) for e in found] == [
        (0, "k", "one"),
        (1, None, ""),
        (2, "", None),
        (3, "k", "a\nb"),
        (4, "k", None),
    ]
    assert found[4]["value_base64"] == "/w=="


def on_a_terminal(options: dict[str, Any], rows: list[Row]) -> bytes:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    try:
        import tty

        tty.setraw(slave)
        shown_as = OutputFormat(raw=False, **options)
        store: Any = FakeStore(FakeReader(0, cut(rows, [])))
        emit(store, "t", output_format=shown_as, fd=slave)
        return os.read(master, 1 << 16)
    finally:
        os.close(slave)
        os.close(master)


def test_control_bytes_are_escaped_on_a_terminal_only() -> None:
    rows: list[Row] = [(1, b"\x07", b"\x1b[2J\tx\n\xff\xc2\x9b1m\x7f")]
    escaped = b"\\x1b[2J\tx\\n\\xff\\x9b1m\\x7f"
    assert on_a_terminal({}, rows) == escaped + b"\n"
    assert on_a_terminal({"key_separator": b"\x1b"}, rows) == b"\\x07\x1b" + escaped + b"\n"
    assert on_a_terminal({"format": "%s\\x1b%k"}, rows) == escaped + b"\x1b\\x07"
    assert b'"\\u001b\\u009b\\u007f"' in on_a_terminal({"json": True}, [(1, None, "\x1b\x9b\x7f".encode())])
    assert shown(rows, raw=False) == b"\x1b[2J\tx\n\xff\xc2\x9b1m\x7f\n"


@given(st.binary(max_size=30))
def test_nothing_that_a_terminal_obeys_gets_through(data: bytes) -> None:
    text = for_terminal(data).decode()
    assert not any(c != "\t" and (c < " " or "\x7f" <= c <= "\x9f") for c in text)


# -- pieces


texts = st.lists(st.binary(max_size=8).map(lambda b: b.replace(b"\n", b"")), max_size=10)


@given(st.lists(texts, min_size=1, max_size=3), st.lists(st.integers(1, 9), max_size=9), st.booleans())
def test_every_way_out_writes_the_same(values: list[list[bytes]], cuts: list[int], compress: bool) -> None:
    def store() -> FakeStore:
        rows: list[list[Row]] = [[(i, None, v) for i, v in enumerate(part)] for part in values]
        return FakeStore(*(FakeReader(p, cut(r, cuts, compress=compress)) for p, r in enumerate(rows)))

    plain, report = out_of(store())
    assert report.records == sum(map(len, values)) == plain.count(b"\n")
    assert out_of(store(), selection=Selection())[0] == plain
    assert out_of(store(), output_format=OutputFormat(format="%s\\n"))[0] == plain
    assert out_of(store(), output_format=OutputFormat(separator=b"\n", key_separator=b""))[0] == plain
    assert out_of(store(), selection=Selection(limit=3))[0] == b"".join(
        line + b"\n" for line in plain.split(b"\n")[:-1][:3]
    )
    assert out_of(store(), last=3)[0] == b"".join(line + b"\n" for line in plain.split(b"\n")[:-1][-3:])


def test_damage_ends_the_partition_and_is_reported() -> None:
    rows: list[Row] = [(1, None, b"%d" % i) for i in range(6)]

    def store() -> FakeStore:
        return FakeStore(FakeReader(0, cut(rows, [2, 4]), broken=[2]))

    for how in ({}, {"selection": Selection()}):
        data, report = out_of(store(), **how)
        assert (data, report.records, [e.offset for e in report.damage]) == (b"0\n1\n", 2, [2])
    data, report = out_of(store(), selection=Selection(skip_damaged=True))
    assert (data, report.records, len(report.damage)) == (b"0\n1\n4\n5\n", 4, 1)


def test_a_batch_that_was_written_wrong_is_damage_not_a_traceback() -> None:
    bad = lines([b"a"], 0, 1)
    bad.body = bad.body[:3]
    data, report = out_of(FakeStore(FakeReader(0, [bad])))
    assert data == b"" and report.damage[0].resume_offset == 1


# -- an output that does not keep up


def test_short_writes_and_a_non_blocking_output_lose_nothing() -> None:
    sink = Sink()
    os.set_blocking(sink.fd, False)
    pieces = [os.urandom(n) for n in (1, 70_000, 0, 3, 1 << 20, 5)] + [b"x"] * 3000
    output = Output(sink.fd)
    for piece in pieces:
        output.add(piece)
        output.add(memoryview(piece))
    output.flush()
    output.flush()
    assert sink.close() == b"".join(piece + piece for piece in pieces)


def test_an_output_that_nobody_reads_is_a_broken_pipe() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    try:
        with pytest.raises(BrokenPipeError):
            emit(FakeStore(FakeReader(0, cut(ROWS, []))), "t", fd=writes)  # type: ignore[arg-type]
    finally:
        os.close(writes)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_output_is_an_error_of_its_own() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(errors.IOFailed) as caught:
            emit(FakeStore(FakeReader(0, cut(ROWS, []))), "t", fd=fd)  # type: ignore[arg-type]
    finally:
        os.close(fd)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC


# -- on a real store


@pytest.fixture
def store(scratch_dir: Path) -> Iterator[Store]:
    with pspf.open(str(scratch_dir / "store")) as opened:
        yield opened


class Follower:
    """``emit`` with follow in a thread, its output gathered."""

    def __init__(self, store_path: str, **how: Any) -> None:
        self.notes: list[str] = []
        self.error: BaseException | None = None
        self._stop = False
        self._sink = Sink()
        self._path = store_path
        self._how = how
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with pspf.open(self._path, create=False, read_only=True) as mine:
                emit(
                    mine,
                    "t",
                    fd=self._sink.fd,
                    follow=True,
                    on_note=self.notes.append,
                    stop=lambda: self._stop,
                    **self._how,
                )
        except BaseException as error:
            self.error = error

    def until(self, wanted: bytes | Callable[[], bool], timeout_s: float = 10) -> None:
        done = wanted if callable(wanted) else lambda: self._sink.data == wanted
        limit = time.monotonic() + timeout_s
        while not done() and time.monotonic() < limit:
            time.sleep(0.005)
        assert done(), (self._sink.data[-200:], self.error)

    def until_any(self) -> None:
        self.until(lambda: bool(self._sink.data))

    def join(self, timeout_s: float = 10) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive()

    def end(self) -> bytes:
        self._stop = True
        self.join()
        return self._sink.close()


def test_following_gives_each_record_as_it_becomes_durable(store: Store) -> None:
    store.append("t", b"old")
    follower = Follower(store.path, last=10)
    try:
        follower.until(b"old\n")
        expected = b"old\n"
        for number in range(30):
            store.append("t", b"%d" % number)
            expected += b"%d\n" % number
            follower.until(expected, 5)
    finally:
        assert follower.end() == expected
    assert follower.error is None


def test_a_topic_that_is_not_there_yet_is_waited_for_and_said(store: Store) -> None:
    follower = Follower(store.path, last=1)
    try:
        follower.until(lambda: follower.notes == ["there is no topic 't' yet: waiting for it"])
        store.append("t", b"a")
        store.append("t", b"b")
        follower.until(b"a\nb\n")
    finally:
        follower.end()
    assert follower.error is None


def test_a_partition_that_is_added_later_is_read_from_its_start(store: Store) -> None:
    store.append("t", b"a", partition=0)
    follower = Follower(store.path, last=1)
    try:
        follower.until(b"a\n")
        store.add_partitions("t", 3)
        store.append("t", b"b", partition=2)
        store.append("t", b"c", partition=1)
        follower.until(lambda: sorted(follower._sink.data.split()) == [b"a", b"b", b"c"])
    finally:
        follower.end()
    assert follower.error is None


def test_a_partition_without_records_is_followed_from_its_first(store: Store) -> None:
    store.create_topic("t", pspf.TopicConfig(partitions=4))
    follower = Follower(store.path)
    try:
        time.sleep(0.2)
        store.append("t", b"a", partition=3)
        follower.until(b"a\n", 5)
    finally:
        follower.end()


def test_a_topic_that_is_deleted_meanwhile_ends_it(store: Store) -> None:
    store.append("t", b"a")
    follower = Follower(store.path)
    try:
        follower.until(b"a\n")
        store.delete_topic("t")
        follower.join(5)
    finally:
        follower.end()
    assert isinstance(follower.error, errors.TopicDeleted)


def test_one_partition_after_the_other_and_then_what_comes(store: Store) -> None:
    store.create_topic("t", pspf.TopicConfig(partitions=2))
    for number in range(4):
        store.append("t", b"%d" % number, partition=number % 2)
    follower = Follower(store.path, selection=Selection(by_partition=True))
    try:
        follower.until(b"0\n2\n1\n3\n")
        store.append("t", b"4", partition=0)
        store.append("t", b"5", partition=1)
        follower.until(lambda: sorted(follower._sink.data[8:].split()) == [b"4", b"5"])
    finally:
        follower.end()


def test_a_place_beyond_the_end_is_waited_for(store: Store) -> None:
    store.append("t", b"0")
    follower = Follower(store.path, selection=Selection(ranges=["2"]))
    try:
        follower.until(lambda: bool(follower.notes))
        for number in range(1, 4):
            store.append("t", b"%d" % number)
        follower.until(b"2\n3\n")
    finally:
        follower.end()
    assert follower.notes == ["t/0: offset 2 is beyond the end 1: nothing is there yet"]


def test_an_end_in_time_ends_the_follower_when_it_is_reached(store: Store) -> None:
    store.append("t", b"0", timestamp_ms=1000)
    follower = Follower(store.path, selection=Selection(until_ms=3000))
    try:
        follower.until(b"0\n")
        for time_ms in (2999, 2000, 3000, 1):
            store.append("t", b"%d" % time_ms, timestamp_ms=time_ms)
        follower.join()
    finally:
        assert follower.end() == b"0\n2999\n2000\n"


def test_a_batch_that_reaches_past_the_end_in_time_is_cut(store: Store) -> None:
    store.append("t", b"0", timestamp_ms=1000)
    follower = Follower(store.path, selection=Selection(until_ms=3000))
    try:
        follower.until(b"0\n")
        store.append_many("t", [b"a", b"b", b"c", b"d"], timestamps_ms=[1000, 2999, 3000, 5])
        follower.join()
    finally:
        assert follower.end() == b"0\na\nb\n"


def test_ctrl_c_ends_a_follower_at_once(store: Store) -> None:
    store.append("t", b"a")
    program = (
        "import os, pspf, sys\n"
        "from pspf.store.emit import emit\n"
        "try: emit(pspf.open(sys.argv[1]), 't', follow=True)\n"
        "except KeyboardInterrupt: os._exit(7)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", program, store.path], stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    try:
        assert os.read(child.stdout.fileno(), 100) == b"a\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(5) == 7
    finally:
        child.stdout.close()
        child.kill()
        child.wait()


def test_following_stops_within_a_moment(store: Store) -> None:
    store.append("t", b"a")
    follower = Follower(store.path)
    follower.until(b"a\n")
    began = time.monotonic()
    follower.end()
    assert time.monotonic() - began < 2


def test_a_follower_with_a_limit_or_an_end_ends_by_itself(store: Store) -> None:
    store.append("t", b"a")
    for selection in (Selection(limit=3), Selection(ranges=[":3"])):
        follower = Follower(store.path, selection=selection)
        follower.until_any()
        while follower._thread.is_alive():
            store.append("t", b"b")
            time.sleep(0.02)
        assert follower.end() == b"a\nb\nb\n"
        assert follower.error is None


@pytest.mark.parametrize("way", ["inotify", "watchfiles", "poll"])
def test_head_ends_the_follower_before_it_anything_more_is_appended(store: Store, way: str) -> None:
    store.append("t", b"a")
    program = (
        "import os, pspf, sys\n"
        "from pspf.store.emit import emit\n"
        "try: emit(pspf.open(sys.argv[1]), 't', follow=True, last=10)\n"
        "except BrokenPipeError: os._exit(7)\n"
    )
    environment = {**os.environ, "PSPF_WAKE": way, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", program, store.path], stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    try:
        assert os.read(child.stdout.fileno(), 100) == b"a\n"
        child.stdout.close()
        assert child.wait(5) == 7
    finally:
        child.kill()
        child.wait()


def test_eight_writers_in_four_partitions_are_followed_without_loss(store: Store) -> None:
    store.create_topic("t", pspf.TopicConfig(partitions=4, durability="os"))
    follower = Follower(store.path, output_format=OutputFormat(format="%p %s\\n"))

    def write(writer: int) -> None:
        with pspf.open(store.path) as mine:
            for number in range(50):
                mine.append("t", b"%d %d" % (writer, number), partition=writer % 4)

    threads = [threading.Thread(target=write, args=[n]) for n in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        follower.until(lambda: follower._sink.data.count(b"\n") == 400, 20)
    finally:
        data = follower.end()
    found = [tuple(map(int, line.split())) for line in data.splitlines()]
    for writer in range(8):
        assert [row for row in found if row[1] == writer] == [(writer % 4, writer, n) for n in range(50)]


def test_what_is_there_comes_in_merged_order_from_disk(store: Store) -> None:
    store.create_topic("t", pspf.TopicConfig(partitions=3))
    for number in range(60):
        store.append("t", b"%d" % number, partition=number * 7 % 3, timestamp_ms=number // 2)
    wanted = sorted(range(60), key=lambda n: (n // 2, n * 7 % 3))
    data, report = out_of(store)
    assert [int(line) for line in data.split()] == wanted and report.records == 60
    assert [int(line) for line in out_of(store, last=7)[0].split()] == wanted[-7:]
    assert [int(line) for line in out_of(store, from_nth=50)[0].split()] == wanted[49:]
    found = store.read("t")
    assert [int(record.value or b"") for record in found] == wanted


def test_a_missing_topic_or_partition_is_an_error(store: Store) -> None:
    with pytest.raises(errors.NoSuchTopic):
        emit(store, "t")
    store.append("t", b"a")
    with pytest.raises(errors.NoSuchPartition):
        emit(store, "t", Selection(partitions=[1]))


def test_cat_of_one_record_imports_little() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "import pspf.store.emit\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    ).stdout.split()
    dear = {
        "typing",
        "enum",
        "functools",
        "contextlib",
        "collections",
        "heapq",
        "json",
        "orjson",
        "ctypes",
        "re",
        "datetime",
        "threading",
    }
    assert not dear & set(found)
    assert {"pspf.store.merge", "pspf.store.reading", "pspf.store.formats", "pspf.store.select"}.isdisjoint(
        found
    )
