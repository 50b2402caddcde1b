"""Input, surroundings and calls that are wrong, and signals at any moment.

Each time: one clear line, the right exit code, and everything that was acknowledged is still there.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pspf as library
from pspf import errors
from pspf.disk.real import Disk
from pspf.format.settings import decode, encode
from pspf.log.roll import roll
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing.ledger import read_all
from tests.conftest import Pspf, script
from tests.support_figures import Figure
from tests.support_mounts import read_only, small_disk, without_privileges
from tests.support_processes import (
    Feeder,
    Running,
    acknowledged,
    check_records,
    check_store,
    nothing_left_running,  # noqa: F401
    start_command,
    wait_until,
)
from tests.support_worker import value_of

Ran = subprocess.CompletedProcess[bytes]


@pytest.fixture
def store(store_dir: Path) -> Iterator[Store]:
    with library.open(str(store_dir)) as opened:
        yield opened


@pytest.fixture
def filled(store_dir: Path) -> Path:
    """A store with topic ``t`` of three records, closed."""
    with library.open(str(store_dir)) as store:
        store.append_many("t", [b"v0", b"v1", b"v2"])
    return store_dir


def refused(ran: Ran, code: int, *texts: str) -> None:
    """It ended with that code and one line, and a hint at most; the line says ``texts``."""
    lines = ran.stderr.decode().splitlines()
    assert ran.returncode == code, lines
    assert lines and lines[0].startswith("pspf: "), lines
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), lines
    for text in texts:
        assert text in ran.stderr.decode(), lines


def values(store_dir: Path, topic: str = "t") -> list[bytes | None]:
    with library.open(str(store_dir)) as store:
        report = store.verify()
        assert report.ok, report.findings
        return [record.value for record in store.read(topic)]


# -- what is no store, or one that is not for us


def test_a_directory_that_is_no_store(pspf: Pspf, store_dir: Path) -> None:
    (store_dir / "letter.txt").write_text("dear")
    refused(pspf("-s", store_dir, "append", "t", input=b"v\n"), 66, "not a PSPF store", "letter.txt")
    for words in (["cat", "t"], ["tail", "t"], ["ls"], ["verify"], ["append", "--no-create", "t"]):
        refused(pspf("-s", store_dir, *words), 66, str(store_dir))
    assert [path.name for path in store_dir.iterdir()] == ["letter.txt"]


def test_a_directory_that_is_not_there(pspf: Pspf, scratch_dir: Path) -> None:
    for words in (["cat", "t"], ["tail", "t"], ["ls"], ["verify"], ["append", "--no-create", "t"]):
        refused(pspf("-s", scratch_dir / "none", *words), 66, "none", "no such directory")
    assert not (scratch_dir / "none").exists()


def test_a_file_instead_of_a_store(pspf: Pspf, scratch_dir: Path) -> None:
    (scratch_dir / "file").write_text("dear")
    for words in (["cat", "t"], ["append", "t"]):
        refused(pspf("-s", scratch_dir / "file", *words), 66, "it is a file")
    refused(pspf("-s", scratch_dir / "file/store", "append", "t"), 66, "it is a file")


def test_a_store_whose_topics_are_gone(pspf: Pspf, filled: Path) -> None:
    (filled / "topics").rename(filled.parent / "elsewhere")
    refused(pspf("-s", filled, "cat", "t"), 65, "'topics' is missing")


def test_a_missing_active_segment_that_was_empty(store_dir: Path) -> None:
    """As a copy made just behind a roll may have it, with the segment before it missing, too."""
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=65536))
        for value in (b"v0", b"v1"):
            store.append("t", value)
            roll(store.partition_writer(store.topic("t"), 0))
    for number in (1, 2):
        (store_dir / f"topics/t/0/{number:020d}.log").unlink()
    for number in (2, 3):
        with library.open(str(store_dir)) as store:
            assert store.append("t", b"v%d" % number).first == number
    with library.open(str(store_dir)) as store:
        records = list(store.read("t", skip_damaged=True))
        assert [record.value for record in records] == [b"v0", b"v2", b"v3"]
        (finding,) = (finding for finding in store.verify().findings if finding.severity == "damage")
        assert (finding.first_offset, finding.last_offset) == (1, 1)


@pytest.mark.parametrize("file", ["store.toml", "topics/t/topic.toml"])
def test_a_newer_format_version(pspf: Pspf, filled: Path, file: str) -> None:
    path = filled / file
    before = path.read_bytes()
    path.write_bytes(encode({**decode(before), "format_version": 2}))
    for words in (["cat", "t"], ["append", "t"]):
        refused(
            pspf("-s", filled, *words, input=b"v\n"), 78, "version 2", "pip install --upgrade pspf-streams"
        )
    path.write_bytes(before)
    assert values(filled) == [b"v0", b"v1", b"v2"]


def test_no_home_and_no_store_named(pspf: Pspf) -> None:
    bare: dict[str, str | None] = {"HOME": None}
    for words in (["append", "t"], ["cat", "t"], ["ls"], ["init"]):
        refused(pspf(*words, env=bare), 78, "HOME")
        refused(pspf(*words, env={"HOME": ""}), 78, "HOME")
    assert pspf("-s", pspf.home / "s", "append", "t", env=bare, input=b"v\n").returncode == 0
    assert pspf("cat", "t", env={**bare, "PSPF_STORE": str(pspf.home / "s")}).stdout == b"v\n"


# -- permissions, read-only and full disks


def test_permission_denied_names_both_uids(pspf: Pspf, filled: Path) -> None:
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    for path in (filled, *filled.rglob("*")):
        os.chown(path, owner, -1)
    os.chmod(filled, 0)

    def run(*words: str) -> Ran:
        return subprocess.run(
            without_privileges(pspf.argv("-s", filled, *words)),
            input=b"v\n",
            env=pspf.environment(),
            capture_output=True,
            check=False,
        )

    for words in (["cat", "t"], ["append", "t"], ["ls"]):
        refused(run(*words), 77, f"uid {os.geteuid()}", f"owner uid {owner}")
    os.chmod(filled, 0o755)
    for path in filled.rglob("*"):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
    if os.geteuid() != 0:
        for path in filled.rglob("*"):
            os.chmod(path, 0o555 if path.is_dir() else 0o444)
    refused(run("append", "t"), 77, f"uid {os.geteuid()}", f"owner uid {owner}")
    refused(run("topic", "create", "u"), 77, f"uid {os.geteuid()}", f"owner uid {owner}")
    ran = run("cat", "t")  # readers need no permission to write
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"v0\nv1\nv2\n", b"")


def test_a_store_on_a_read_only_disk(pspf: Pspf, filled: Path) -> None:
    with read_only(filled) as mounts:
        for words in (
            ["append", "t"],
            ["append", "u"],
            ["topic", "create", "u"],
            ["topic", "delete", "--yes", "t"],
        ):
            refused(mounts.pspf(pspf, "-s", filled, *words, input=b"v\n"), 74, "read-only")
        ran = mounts.pspf(pspf, "-s", filled, "cat", "t")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"v0\nv1\nv2\n", b"")
        for words in (["tail", "t"], ["verify"], ["ls"], ["topic", "describe", "t"]):
            ran = mounts.pspf(pspf, "-s", filled, *words)
            assert ran.returncode == 0, ran.stderr
        refused(mounts.pspf(pspf, "-s", filled / "new", "append", "t"), 74, "read-only")
    assert values(filled) == [b"v0", b"v1", b"v2"]


def test_a_killed_writer_on_a_disk_that_is_read_only_now(pspf: Pspf, filled: Path) -> None:
    read_end, write_end = os.pipe()
    running = start_command("killed", filled, "append", "--ack", "t", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"v3\nv4\nunfinished")
    running.wait_for_lines(1)
    running.kill()
    os.close(write_end)
    with read_only(filled) as mounts:
        ran = mounts.pspf(pspf, "-s", filled, "cat", "t")
        assert ran.stdout == b"v0\nv1\nv2\nv3\nv4\n", ran.stderr
        assert ran.returncode == 0
    assert values(filled) == [b"v0", b"v1", b"v2", b"v3", b"v4"]


def test_a_full_disk(pspf: Pspf, scratch_dir: Path) -> None:
    path = scratch_dir / "disk"
    path.mkdir()
    with small_disk(path, scratch_dir / "image") as mounts:
        store_dir = path / "store"

        def run(*words: str, input: bytes = b"") -> Ran:
            return mounts.pspf(pspf, "-s", store_dir, *words, input=input)

        lines = b"".join(b"%d:" % n + b"x" * 500 + b"\n" for n in range(40_000))
        assert run("append", "t", input=b"first\n").returncode == 0
        ran = run("append", "--ack", "t", input=lines)
        refused(ran, 74, "no space left on the disk", "hint: free some space")
        acked = [json.loads(line)["last"] for line in ran.stdout.splitlines()]
        there = run("cat", "t").stdout
        assert there == (b"first\n" + lines)[: len(there)] and there.endswith(b"\n")
        end = there.count(b"\n")
        assert end >= (acked[-1] + 1 if acked else 1)
        # Still full: small appends fit or are refused; nothing else.
        small = 0
        for number in range(50):
            ran = run("append", "t", input=b"small%d" % number + b"y" * 20_000)
            if ran.returncode:
                refused(ran, 74, "no space left on the disk")
                break
            small += 1
        assert run("cat", "t").stdout.count(b"\n") == end + small
        assert run("verify").returncode == 0
        with_room = mounts.run(["sh", "-c", f"rm -f {path}/store/reserve"], pspf.environment())
        assert with_room.returncode == 0
        ran = run("append", "t", input=b"last\n")
        assert ran.returncode == 0, ran.stderr
        assert run("cat", "t").stdout.endswith(b"last\n")
        assert run("verify").returncode == 0


def test_a_file_that_may_not_grow(pspf: Pspf, filled: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    lines = b"".join(value_of("w", n) + b"\n" for n in range(20_000))
    ran = pspf("-s", filled, "append", "t", "--ack", input=lines, preexec_fn=limit)
    refused(ran, 74, "grow past the allowed size")
    acked = [json.loads(line)["last"] for line in ran.stdout.splitlines()]
    found = values(filled)
    assert found[:3] == [b"v0", b"v1", b"v2"] and b"".join((v or b"") + b"\n" for v in found[3:]) in lines
    assert len(found) == (acked[-1] + 1 if acked else 3), "what was refused is not there, the rest is"
    assert pspf("-s", filled, "append", "t", input=lines).returncode == 0
    assert len(values(filled)) == len(found) + 20_000


def at_every_size(scratch: Path, limits: "range | list[int]", preallocate: bool) -> None:
    """A child with each of the limits appends four records; what it was told must hold afterwards."""
    told = 0
    for limit in limits:
        store_dir = scratch / f"s{limit}"
        with library.open(str(store_dir)) as store:
            store.create_topic("t", TopicConfig(preallocate=preallocate))
            store.append("t", b"before")
        outcomes = in_child(lambda: append_until_refused(store_dir, limit))  # noqa: B023
        with library.open(str(store_dir)) as store:
            store.append("t", b"after")
            found = [value for _, value in check_store(store, "t", 1)[0]]
        kept = [f"v{n}" for n, outcome in enumerate(outcomes) if outcome == "ok"]
        maybe = [f"v{n}" for n, outcome in enumerate(outcomes) if outcome == "OutcomeUnknown"]
        names = [(value or b"").decode().rstrip("x") for value in found]
        assert names[0] == "before" and names[-1] == "after", (limit, names)
        middle = names[1:-1]
        assert [name for name in middle if name not in maybe] == kept, (limit, outcomes, names)
        assert set(outcomes) <= {"ok", "IOFailed", "OutcomeUnknown", "Poisoned"}, (limit, outcomes)
        told += len(kept)
        subprocess.run(["rm", "-r", str(store_dir)], check=True)
    assert told, "no limit let anything through"


def append_until_refused(store_dir: Path, limit: int) -> list[str]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    outcomes = []
    with library.open(str(store_dir)) as store:
        for number in range(4):
            try:
                store.append("t", b"v%d" % number + b"x" * 100)
                outcomes.append("ok")
            except errors.IOFailed as error:
                outcomes.append(type(error).__name__)
    return outcomes


def in_child(work: Callable[[], object]) -> "list[str]":
    """What ``work`` returns in a forked child, or the error that it ends with."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            try:
                result = work()
            except BaseException as error:
                result = [f"{type(error).__name__}: {error}"]
            os.write(write_end, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        data = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    found: list[str] = json.loads(data)
    return found


SIZES = [0, 63, 64, 511, 512, 1023, 1024, 4096, 4250, 4300, 4400, 4500, 4700, 5000, 8192, 70_000]


@pytest.mark.parametrize("preallocate", [True, False])
def test_a_file_size_limit_at_sizes_that_matter(scratch_dir: Path, preallocate: bool) -> None:
    at_every_size(scratch_dir, SIZES, preallocate)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("preallocate", [True, False])
def test_a_file_size_limit_at_every_byte(
    scratch_dir: Path, preallocate: bool, part: int, figure: Figure
) -> None:
    # Between the small files' sizes and a segment's header nothing changes.
    limits = [*range(1100), *range(4090, 5300)][part::2]
    at_every_size(scratch_dir, limits, preallocate)
    figure("a file may not grow past every byte", len(limits))


def test_too_many_open_files(pspf: Pspf, filled: Path) -> None:
    codes = set()
    for most in range(3, 40):

        def limit(most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

        ran = pspf("-s", filled, "append", "t", input=b"more\n", preexec_fn=limit)
        codes.add(ran.returncode)
        if ran.returncode == 74:
            refused(ran, 74, "too many open files", "ulimit -n")
    assert {0, 74} <= codes
    found = values(filled)
    assert found[:3] == [b"v0", b"v1", b"v2"] and set(found[3:]) == {b"more"}


# -- names


BAD_NAMES = {
    "slash": "a/b",
    "absolute": "/tmp/x",
    "dots": "..",
    "dot": ".",
    "newline": "a\nb",
    "long": "x" * 201,
    "empty": "",
    "space": "a b",
    "accent": "é",
    "tab": "a\tb",
    "kept for PSPF": ".new-1",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_topic_name(pspf: Pspf, filled: Path, name: str) -> None:
    before = sorted(filled.parent.rglob("*"))
    for words in (["append", name], ["topic", "create", name], ["cat", name], ["topic", "rename", "t", name]):
        refused(pspf("-s", filled, *words, input=b"v\n"), 2, "name")
    assert sorted(filled.parent.rglob("*")) == before


def test_the_longest_name_is_fine(pspf: Pspf, filled: Path) -> None:
    name = "Az09._-" + "x" * 193
    assert pspf("-s", filled, "append", name, input=b"v\n").returncode == 0
    assert pspf("-s", filled, "cat", name).stdout == b"v\n"


def test_a_topic_that_is_a_planted_symlink_is_not_followed(pspf: Pspf, filled: Path) -> None:
    (filled / "topics/link").symlink_to(filled / "topics/t")
    for words in (["cat", "link"], ["append", "link"]):
        ran = pspf("-s", filled, *words, input=b"v\n")
        assert ran.returncode not in (0, 70), ran.stderr
    assert values(filled) == [b"v0", b"v1", b"v2"]


def test_partitions_and_topics_that_are_not_there(pspf: Pspf, filled: Path) -> None:
    refused(pspf("-s", filled, "cat", "none"), 66, "no topic 'none'", "hint: ")
    refused(pspf("-s", filled, "tail", "none"), 66, "no topic 'none'")
    refused(pspf("-s", filled, "cat", "-p", "1", "t"), 66, "no partition 1")


# -- records


def lines_with_a_fault(good: bytes, bad: bytes, at: int) -> bytes:
    return good * (at - 1) + bad + b"\n" + good * 10


@pytest.mark.parametrize("at", [1, 2, 50_000])
def test_a_malformed_envelope_at_line_n(pspf: Pspf, store_dir: Path, at: int) -> None:
    good = b'{"value":"%s"}\n' % (b"x" * 60)
    for number, bad in enumerate(
        (b"nonsense", b'{"value": 5}', b'{"valu": "v"}', b"[]", b"", b'{"value":"v"')
    ):
        topic = f"t{number}"
        if at > 2 and number > 1:
            break
        ran = pspf("-s", store_dir, "append", topic, "--json", input=lines_with_a_fault(good, bad, at))
        refused(ran, 65, f"standard input, line {at}", f"{at - 1} record", "--skip-invalid")
        assert len(values(store_dir, topic)) == at - 1


def test_a_header_name_above_65535_bytes_is_refused(pspf: Pspf, store_dir: Path) -> None:
    good = b'{"value":"v","headers":[["%s","x"]]}\n'
    data = good % (b"h" * 65_535) + good % (b"h" * 65_536) + good % b"h"
    ran = pspf("-s", store_dir, "append", "t", "--json", input=data)
    refused(ran, 65, "standard input, line 2", "1 record", "a name of 65536 bytes", "--skip-invalid")
    ran = pspf("-s", store_dir, "append", "t", "--json", "--skip-invalid", input=data)
    refused(ran, 1, "1 malformed record")
    ran = pspf("-s", store_dir, "append", "t", "-H", "h" * 65_536 + "=x", input=b"v\n")
    refused(ran, 2, "-H 'hhhh", "a name of 65536 bytes; at most 65535", "hint: -H source=web")
    assert len(ran.stderr) < 300 and len(values(store_dir)) == 3


def test_a_missing_key_separator_at_line_n(pspf: Pspf, store_dir: Path) -> None:
    for number, at in enumerate((1, 2, 40_000)):
        data = lines_with_a_fault(b"key:value of it, and more\n", b"no separator", at)
        ran = pspf("-s", store_dir, "append", f"t{number}", "-K", ":", input=data)
        refused(ran, 65, f"standard input, line {at}", "separator", f"{at - 1} record")
        assert len(values(store_dir, f"t{number}")) == at - 1


def test_a_malformed_line_of_the_second_file_is_named_by_its_own_number(pspf: Pspf, store_dir: Path) -> None:
    (store_dir.parent / "a").write_bytes(b"k:1\nk:2\n")
    (store_dir.parent / "b").write_bytes(b"k:3\nbad\n")
    ran = pspf("-s", store_dir, "append", "t", "-K", ":", store_dir.parent / "a", store_dir.parent / "b")
    refused(ran, 65, "b, line 2", "3 records")
    assert values(store_dir) == [b"1", b"2", b"3"]


def test_skip_invalid_counts_what_it_leaves_out(pspf: Pspf, store_dir: Path) -> None:
    data = b'{"value":"v0"}\nbad\n{"value":"v1"}\n[]\n{"value":"v2"}'
    ran = pspf("-s", store_dir, "append", "t", "--json", "--skip-invalid", input=data)
    refused(ran, 1, "2 malformed records", "3")
    assert values(store_dir) == [b"v0", b"v1", b"v2"]


def small_records(store_dir: Path, limit: int = 100) -> None:
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(max_record_bytes=limit))


def test_a_record_above_max_record_bytes_in_plain_lines(pspf: Pspf, store_dir: Path) -> None:
    small_records(store_dir)
    data = b"first\nsecond\n" + b"x" * 101 + b"\nlast\n"
    ran = pspf("-s", store_dir, "append", "t", input=data)
    refused(ran, 65, "101 bytes", "max_record_bytes (100)", "line 3", "2 records", "--max-record-bytes")
    assert values(store_dir) == [b"first", b"second"]
    ran = pspf("-s", store_dir, "append", "t", "--skip-invalid", input=data)
    refused(ran, 1, "1 malformed record")
    assert values(store_dir) == [b"first", b"second", b"first", b"second", b"last"]


def test_a_record_above_max_record_bytes_in_the_second_file_is_named_by_its_own_line(
    pspf: Pspf, store_dir: Path
) -> None:
    small_records(store_dir)
    (store_dir.parent / "a").write_bytes(b"1\n2\n3\n")
    (store_dir.parent / "b").write_bytes(b"4\n" + b"x" * 101 + b"\n")
    ran = pspf("-s", store_dir, "append", "t", store_dir.parent / "a", store_dir.parent / "b")
    refused(ran, 65, "b, line 2", "4 records")


@pytest.mark.parametrize(
    "options", [["-K", ":"], ["-k", "key"], ["-0"], ["-w"], ["--json"], ["--producer", "me"]]
)
def test_a_record_above_max_record_bytes_in_other_forms(
    pspf: Pspf, store_dir: Path, options: list[str]
) -> None:
    small_records(store_dir)
    data = {"-0": b"fits\0", "-w": b"", "--json": b'{"value":"fits"}\n', "-K": b"k:fits\n"}.get(
        options[0], b"fits\n"
    )
    large = b"x" * 101
    if options[0] == "--json":
        large = b'{"value":"%s"}' % large
    elif options[0] == "-K":
        large = b"k:" + large
    ran = pspf("-s", store_dir, "append", "t", *options, input=data + large)
    refused(ran, 65, "max_record_bytes")
    assert values(store_dir) == ([] if options == ["-w"] else [b"fits"])


def test_thousands_of_records_above_max_record_bytes_are_skipped(pspf: Pspf, store_dir: Path) -> None:
    small_records(store_dir, 10)
    data = b"".join(b"x" * 11 + b"\n%d\n" % n for n in range(3_000))
    ran = pspf("-s", store_dir, "append", "t", "--skip-invalid", input=data)
    refused(ran, 1, "3,000 malformed records")
    assert values(store_dir) == [b"%d" % n for n in range(3_000)]


def test_a_line_that_never_ends_is_given_up(pspf: Pspf, store_dir: Path) -> None:
    small_records(store_dir)
    running = subprocess.Popen(
        pspf.argv("-s", store_dir, "append", "t"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=pspf.environment(),
    )
    assert running.stdin is not None and running.stderr is not None
    running.stdin.write(b"first\n")
    with pytest.raises(BrokenPipeError):
        for _ in range(1_000):
            running.stdin.write(b"x" * 100_000)
    assert b"max_record_bytes" in running.stderr.read()
    assert running.wait(60) == 65
    assert values(store_dir) == [b"first"]


@pytest.mark.parametrize("options", [[], ["-k", "key"], ["--producer", "me"]])
def test_a_last_line_without_its_end_is_a_record(pspf: Pspf, store_dir: Path, options: list[str]) -> None:
    assert pspf("-s", store_dir, "append", "t", *options, input=b"one\ntwo").returncode == 0
    assert values(store_dir) == [b"one", b"two"]


def test_nul_bytes_and_invalid_utf8_come_back_as_they_were(pspf: Pspf, store_dir: Path) -> None:
    data = b"\0\n\xff\xfe\n\xed\xa0\x80\n\r\x1b[31m\n" + bytes(range(11, 256)) + b"\n"
    assert pspf("-s", store_dir, "append", "t", input=data).returncode == 0
    assert pspf("-s", store_dir, "cat", "t").stdout == data
    printed = pspf("-s", store_dir, "cat", "--json", "t").stdout
    assert [("value_base64" in json.loads(line)) for line in printed.splitlines()] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert pspf("-s", store_dir, "append", "u", "--json", input=printed).returncode == 0
    assert pspf("-s", store_dir, "cat", "u").stdout == data
    keyed = b"\0\xff:\xff\0\n"
    assert pspf("-s", store_dir, "append", "k", "-K", ":", input=keyed).returncode == 0
    assert pspf("-s", store_dir, "cat", "-K", ":", "k").stdout == keyed


@pytest.mark.parametrize("options", [[], ["-K", ":"], ["--json"], ["-0"], ["--producer", "me"], ["--ack"]])
def test_an_empty_input_appends_nothing(pspf: Pspf, store_dir: Path, options: list[str]) -> None:
    ran = pspf("-s", store_dir, "append", "t", *options)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    ran = pspf("-s", store_dir, "cat", "t")
    assert (ran.returncode, ran.stdout) == (0, b"")


def test_standard_input_that_is_closed(pspf: Pspf, store_dir: Path) -> None:
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *pspf.argv("-s", store_dir, "append", "t")],
        env=pspf.environment(),
        capture_output=True,
        check=False,
    )
    refused(ran, 74, "cannot read standard input")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_standard_output_that_is_full(pspf: Pspf, filled: Path) -> None:
    for words in (
        ["cat", "t"],
        ["cat", "--json", "t"],
        ["tail", "t"],
        ["ls", "--json"],
        ["append", "--ack", "t"],
    ):
        with open("/dev/full", "wb") as full:
            ran = subprocess.run(
                pspf.argv("-s", filled, *words),
                input=b"v3\n",
                stdout=full,
                stderr=subprocess.PIPE,
                env=pspf.environment(),
                check=False,
            )
        refused(ran, 74, "no space left")
    assert values(filled)[:3] == [b"v0", b"v1", b"v2"]


# -- signals


STOPS = [signal.SIGINT, signal.SIGTERM]


def stopped(running: Running, number: int, *, silent: bool = True) -> None:
    running.process.send_signal(number)
    code = running.wait()
    assert code == -number, (code, running.errors())
    assert not silent or running.errors() == ""


@pytest.mark.parametrize("number", STOPS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "options", [[], ["-k", "key"], ["--producer", "me"]], ids=["lines", "key", "producer"]
)
def test_append_stopped_at_any_moment(store_dir: Path, number: int, options: list[str]) -> None:
    """What it acknowledged is durable, and complete lines are appended; a part of one is not."""
    rng = random.Random(number + len(options))
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=65536))
    for attempt in range(5):
        name = f"w{attempt}"
        words = [*options[:1], *([name] if options else [])]
        feeder = Feeder(name, rng)
        running = feeder.started_for(
            lambda end: start_command(name, store_dir, "append", "--ack", "t", *words, stdin=end)  # noqa: B023
        )
        time.sleep(rng.uniform(0, 0.25))
        stopped(running, number, silent=False)
        lines = running.errors().splitlines()
        assert len(lines) <= 1 and all(line.startswith("pspf: stopped: ") for line in lines), lines
        with library.open(str(store_dir)) as store:
            assert not read_all(store, "t", 1)[0] or read_all(store, "t", 1)[0][-1][1]
            found = check_store(store, "t", 1)
        acked = acknowledged(running)
        assert check_records(found, [acked]) >= acked.records
        mine = [value for _, value in found[0] if (value or b"").startswith(name.encode())]
        assert len(mine) == acked.records, "appended, and not acknowledged though it ended cleanly"


@pytest.mark.parametrize("number", STOPS, ids=["SIGINT", "SIGTERM"])
def test_append_that_waits_for_input_is_stopped_and_says_what_was_unfinished(
    store_dir: Path, number: int
) -> None:
    read_end, write_end = os.pipe()
    running = start_command("w", store_dir, "append", "--ack", "t", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"one\ntwo\nunfinished")
    running.wait_for_lines(1)
    stopped(running, number, silent=False)
    os.close(write_end)
    assert "2 records" in running.errors() and "10 bytes" in running.errors()
    assert values(store_dir) == [b"one", b"two"]


@pytest.mark.parametrize("number", STOPS, ids=["SIGINT", "SIGTERM"])
def test_a_follower_is_stopped(filled: Path, number: int) -> None:
    running = start_command("f", filled, "tail", "-f", "t")
    running.wait_for_lines(3)
    stopped(running, number)
    for attempt in range(3):
        running = start_command(f"f{attempt}", filled, "tail", "-f", "t")
        time.sleep(attempt * 0.03)
        running.process.send_signal(number)
        assert running.wait() == -number, running.errors()
        assert "Traceback" not in running.errors()


@pytest.mark.parametrize("number", STOPS, ids=["SIGINT", "SIGTERM"])
def test_cat_is_stopped_while_its_reader_is_slow(pspf: Pspf, store_dir: Path, number: int) -> None:
    with library.open(str(store_dir)) as store:
        store.append_many("t", [bytes(1000)] * 5_000)
    running = subprocess.Popen(
        pspf.argv("-s", store_dir, "cat", "t"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=pspf.environment(),
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.read(10)
    running.send_signal(number)
    assert running.wait(60) == -number
    assert running.stderr.read() == b""
    running.stdout.close()
    running.stderr.close()


def test_a_second_signal_ends_a_writer_that_cannot_stop(store_dir: Path) -> None:
    read_end, write_end = os.pipe()
    running = start_command("w", store_dir, "append", "--ack", "t", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"one\n")
    running.wait_for_lines(1)
    running.process.send_signal(signal.SIGINT)
    running.process.send_signal(signal.SIGINT)
    assert running.wait() == -signal.SIGINT
    os.close(write_end)
    assert values(store_dir) == [b"one"]


def test_sigpipe_ends_cat_silently(pspf: Pspf, store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        store.append_many("t", [b"%d" % n + bytes(1000) for n in range(5_000)])
    for words in (["cat", "t"], ["cat", "--json", "t"], ["tail", "-n", "4000", "t"]):
        running = subprocess.Popen(
            pspf.argv("-s", store_dir, *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=pspf.environment(),
        )
        assert running.stdout is not None and running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        assert running.wait(60) == -signal.SIGPIPE
        assert running.stderr.read() == b""
        running.stderr.close()


def test_a_follower_ends_when_its_reader_is_gone_though_nothing_is_appended(pspf: Pspf, filled: Path) -> None:
    running = subprocess.Popen(
        pspf.argv("-s", filled, "tail", "-f", "t"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=pspf.environment(),
    )
    assert running.stdout is not None and running.stderr is not None
    assert running.stdout.read(9) == b"v0\nv1\nv2\n"
    running.stdout.close()
    assert running.wait(60) == -signal.SIGPIPE
    assert running.stderr.read() == b""
    running.stderr.close()


def test_append_whose_acknowledgements_nobody_reads(pspf: Pspf, store_dir: Path) -> None:
    running = subprocess.Popen(
        pspf.argv("-s", store_dir, "append", "--ack", "t"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=pspf.environment(),
    )
    assert running.stdin is not None and running.stdout is not None and running.stderr is not None
    running.stdin.write(b"one\n")
    running.stdin.flush()
    assert b'"first":0' in running.stdout.readline()
    running.stdout.close()
    running.stdin.write(b"two\n")
    running.stdin.flush()
    assert running.wait(60) == -signal.SIGPIPE
    assert running.stderr.read() == b""
    running.stdin.close()
    running.stderr.close()
    assert values(store_dir) == [b"one", b"two"]


# -- time and places


class BackwardClock(Disk):
    """Every look at the clock finds it a minute earlier."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000_000_000_000

    def now_ns(self) -> int:
        self.now -= 60_000_000_000
        return self.now


def test_a_clock_that_goes_back(store_dir: Path) -> None:
    for _ in range(3):
        with open_store(str(store_dir), disk=BackwardClock()) as store:
            if not store.topics():
                store.create_topic("t", TopicConfig(segment_bytes=65536, durability="interval"))
            for number in range(20):
                store.append("t", b"%d" % number + bytes(5_000), producer="me" if number % 3 else None)
    with library.open(str(store_dir)) as store:
        assert store.verify().ok
        records = list(store.read("t"))
    assert [record.offset for record in records] == list(range(60))
    times = [record.append_time_ns for record in records]
    assert times == sorted(set(times)), "append times do not increase"


def test_a_clock_that_goes_back_under_a_follower(store_dir: Path) -> None:
    with open_store(str(store_dir), disk=BackwardClock()) as store:
        store.append("t", b"0")
        tail = store.tail("t", last=None)  # type: ignore[arg-type, unused-ignore]
        for number in range(5):
            assert next(tail).value == b"%d" % number
            store.append("t", b"%d" % (number + 1))


def test_an_offset_beyond_the_end(pspf: Pspf, filled: Path) -> None:
    for where in ("4", "99", "9223372036854775807", "+4"):
        ran = pspf("-s", filled, "cat", "t", "-o", where)
        assert (ran.returncode, ran.stdout) == (0, b"")
        assert b"beyond the end 3" in ran.stderr
    ran = pspf("-s", filled, "cat", "t", "-o", "3")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert pspf("-s", filled, "cat", "t", "-o", "1:99").stdout == b"v1\nv2\n"


def test_a_follower_from_an_offset_beyond_the_end_waits_for_it(pspf: Pspf, filled: Path) -> None:
    running = start_command("f", filled, "tail", "-f", "-o", "5", "t")
    wait_until(lambda: "beyond the end" in running.errors(), "the note")
    assert pspf("-s", filled, "append", "t", input=b"v3\nv4\nv5\nv6\n").returncode == 0
    assert running.wait_for_lines(2) == ["v5", "v6"]
    running.kill()


def test_an_offset_before_the_start(pspf: Pspf, store_dir: Path) -> None:
    line = b'{"partition":0,"offset":1000,"value":"v"}\n'
    assert pspf("-s", store_dir, "append", "t", "--json", "--preserve", input=line).returncode == 0
    for where in ("0", "start", "500", "-5", "+0", "1000", "beginning"):
        ran = pspf("-s", store_dir, "cat", "t", "-o", where)
        assert (ran.returncode, ran.stdout) == (0, b"v\n"), (where, ran.stderr)
    assert pspf("-s", store_dir, "cat", "t", "-o", ":1000").stdout == b""


@pytest.mark.parametrize(
    "where", ["x", "1.5", "", "5:2", "--json", "1:2:3", ":", "@never", "9" * 20, "+", "-", "0x1"]
)
def test_an_offset_that_is_nonsense(pspf: Pspf, filled: Path, where: str) -> None:
    for command in ("cat", "tail"):
        refused(pspf("-s", filled, command, "t", "-o", where), 2, "-o")


# -- after a fork


def test_use_after_fork_raises_and_the_parent_goes_on(store: Store) -> None:
    store.create_topic("t", TopicConfig(partitions=2))
    store.append("t", b"before", partition=0)
    writer = store.writer("t", linger_ms=60_000, partition=0)
    tail = store.tail("t", last=None)  # type: ignore[arg-type, unused-ignore]
    assert next(tail).value == b"before"
    reader = store.reader("t", 0)
    calls: list[Callable[[], object]] = [
        lambda: store.append("t", b"child"),
        lambda: store.append_many("t", [b"child"]),
        lambda: list(store.read("t")),
        lambda: next(tail),
        lambda: (writer.append(b"child"), writer.flush()),
        lambda: store.topics(),
        lambda: store.create_topic("u"),
        lambda: store.describe("t"),
        lambda: store.verify(),
        lambda: reader.read(),
    ]

    def in_the_child() -> list[str]:
        told = []
        for call in calls:
            try:
                call()
                told.append("nothing")
            except library.Error as error:
                told.append(type(error).__name__)
            except Exception as error:
                told.append(repr(error))
        store.close()
        return told

    told = in_child(in_the_child)
    writer.append(b"after")
    writer.close()
    store.append("t", b"other", partition=1)
    assert next(tail).value in (b"after", b"other")
    assert sorted(record.value or b"" for record in store.read("t")) == [b"after", b"before", b"other"]
    reader.close()
    assert told == ["UseAfterFork"] * len(calls)


def test_a_forked_child_opens_the_store_itself(store: Store, store_dir: Path) -> None:
    store.append("t", b"parent")

    def in_the_child() -> list[str]:
        with library.open(str(store_dir)) as mine:
            return [str(mine.append("t", b"child").first)]

    assert in_child(in_the_child) == ["1"]
    assert store.append("t", b"parent again").first == 2


def test_a_forked_child_that_lives_on_holds_no_lock_of_its_parent(store_dir: Path) -> None:
    read_end, write_end = os.pipe()
    program = (
        "import os, sys, time, pspf\n"
        "store = pspf.open(sys.argv[1])\n"
        "store.append('t', b'parent')\n"
        "if os.fork() == 0:\n"
        "    os.read(int(sys.argv[2]), 1)\n"
        "    os._exit(0)\n"
        "os.write(1, b'ready\\n')\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(store_dir), str(read_end)],
        stdout=subprocess.PIPE,
        pass_fds=[read_end],
    )
    os.close(read_end)
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    parent.kill()
    parent.wait()
    with library.open(str(store_dir)) as store:
        assert store.append("t", b"next").first == 1
        # Nobody else has it open: recovery ran, and the close gives the allocated zeros back.
    segment = store_dir / "topics/t/0/00000000000000000000.log"
    assert segment.stat().st_size < 8192
    os.close(write_end)
    parent.stdout.close()


def test_the_command_is_installed() -> None:
    assert os.access(script(), os.X_OK)
