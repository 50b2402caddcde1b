"""Stores of every version that was released are read, recovered and appended to by this one (P12).

tests/golden/ has a store for each, and what is in it; tests/golden/make_golden.py makes the next one. Each
has closed topics of every kind, and what crashes and damage left.
"""

import importlib.util
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pspf as library
from pspf import errors
from pspf.format import envelope
from pspf.format.columns import unpack_headers
from pspf.store.feed import FeedOptions, feed
from pspf.store.store import Store
from tests import independent_decoder as independent
from tests.conftest import ROOT, Pspf

GOLDEN = ROOT / "tests" / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "expected.json").exists())
WITH_GAP = {"gap"}
DAMAGED = {"damaged"}
Records = list[tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]


def load_make_golden() -> ModuleType:
    """tests/golden/ is no package."""
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = load_make_golden()


class Old:
    """One version's store, unpacked, and what must be in it."""

    def __init__(self, version: str, scratch: Path) -> None:
        # Made by a test, or here.
        home = Path(version) if "/" in version else GOLDEN / version
        with tarfile.open(home / "store.tar.gz") as tar:
            tar.extractall(scratch, filter="tar")
        self.path = scratch / "store"
        self.expected: dict[str, Any] = json.loads((home / "expected.json").read_text("utf-8"))

    def records(self, recovered: bool) -> dict[tuple[str, int], Records]:
        """By topic and partition."""
        found = {}
        for topic, partitions in self.expected["records"].items():
            for number, rows in partitions.items():
                more = self.expected["adopted"].get(topic, {}).get(number, []) if recovered else []
                found[topic, int(number)] = [record_of(row) for row in [*rows, *more]]
        return found


def record_of(row: list[Any]) -> Any:
    offset, time_ms, key, value, headers = row
    named = [(bytes.fromhex(n).decode("utf-8", "surrogateescape"), golden.unpacked(v)) for n, v in headers]
    return offset, time_ms, golden.unpacked(key), golden.unpacked(value), named


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, scratch_dir: Path) -> Old:
    return Old(request.param, scratch_dir)


def read_partition(store: Store, topic: str, partition: int) -> Records:
    """Whatever can be read; damage is stepped over."""
    records: Records = []
    reader = store.reader(topic, partition)
    try:
        reader.seek(reader.start())
        while True:
            try:
                batches = reader.read()
            except errors.Damaged as error:
                assert topic in DAMAGED | WITH_GAP, error
                reader.seek(error.resume_offset)
                continue
            if not batches:
                return records
            for raw in batches:
                columns = raw.columns()
                nothing = [None] * columns.count
                blobs = columns.header_blobs() or [b""] * columns.count
                times = columns.timestamps() or [raw.header.base_timestamp] * columns.count
                parts = (
                    columns.offsets(),
                    times,
                    columns.keys() or nothing,
                    columns.values(),
                    map(unpack_headers, blobs),
                )
                records += zip(*parts, strict=True)
    finally:
        reader.close()


def found_by_verify(store: Store) -> list[list[Any]]:
    return [[f.topic, f.partition, f.kind, f.severity] for f in store.verify().findings]


def partitions_on_disk(path: Path) -> Iterator[tuple[str, int, Path]]:
    for directory in sorted(path.glob("topics/*/[0-9]*")):
        yield directory.parent.name, int(directory.name), directory


def read_by_the_other_decoder(path: Path, expected: dict[tuple[str, int], Records]) -> int:
    """Compare; the number of partitions that it could read."""
    count = 0
    for topic, partition, directory in partitions_on_disk(path):
        if topic in DAMAGED:
            continue
        settings = independent.read_settings((directory.parent / "topic.toml").read_bytes())
        try:
            found = independent.read_partition(directory, bytes.fromhex(settings["topic_id"]), partition)
        except independent.NoZstd:
            continue
        assert [
            (r["offset"], r["timestamp_ms"], r["key"], r["value"], [(n, v) for n, v in r["headers"]])
            for r in found["records"]
        ] == [
            (*row[:4], [(name.encode("utf-8", "surrogateescape"), value) for name, value in row[4]])
            for row in expected[topic, partition]
        ], f"{topic}/{partition}"
        count += 1
    return count


def test_a_version_without_a_golden_store_needs_one() -> None:
    """A change of any format version comes with a store of the new one: see CONTRIBUTING.md."""
    kept = [json.loads((GOLDEN / version / "expected.json").read_text("utf-8")) for version in VERSIONS]
    assert golden.FORMATS in [one["formats"] for one in kept], "run tests/golden/make_golden.py"


def test_an_old_store_is_read_as_it_was_written(old: Old) -> None:
    before = {path: path.read_bytes() for path in old.path.rglob("*") if path.is_file()}
    with library.open(str(old.path), create=False, read_only=True) as store:
        expected = old.records(recovered=False)
        assert store.topics() == sorted(old.expected["records"])
        for (topic, partition), records in expected.items():
            assert read_partition(store, topic, partition) == records, f"{topic}/{partition}"
        assert found_by_verify(store) == old.expected["findings"]
        assert len(store.usage()) >= len(list(partitions_on_disk(old.path)))
    assert before == {path: path.read_bytes() for path in old.path.rglob("*") if path.is_file()}


def test_an_old_store_is_read_from_its_specification(old: Old) -> None:
    count = read_by_the_other_decoder(old.path, old.records(recovered=False))
    assert count > 10


def test_an_old_store_recovers_and_goes_on(old: Old, scratch_dir: Path) -> None:
    expected = old.records(recovered=True)
    with library.open(str(old.path), create=False) as store:
        golden.recover(store)
        for (topic, partition), records in expected.items():
            assert read_partition(store, topic, partition) == records, f"{topic}/{partition}"
        assert found_by_verify(store) == old.expected["findings_after_recovery"]
        for (topic, partition), records in expected.items():
            row = store.append(
                topic, b"new", partition=partition, key=b"k", headers=[("h", b"x")], timestamp_ms=7
            )
            assert row.first == (records[-1][0] + 1 if records else 0), f"{topic}/{partition}"
            records.append((row.first, 7, b"k", b"new", [("h", b"x")]))
    with library.open(str(old.path), create=False) as store:
        for (topic, partition), records in expected.items():
            assert read_partition(store, topic, partition) == records, f"{topic}/{partition}"
        assert found_by_verify(store) == old.expected["findings_after_recovery"]
    assert read_by_the_other_decoder(old.path, expected) > 10


def test_producers_of_an_old_store_go_on(old: Old, scratch_dir: Path) -> None:
    source = scratch_dir / "flights"
    source.write_bytes(golden.FLIGHTS + golden.MORE_FLIGHTS)
    with library.open(str(old.path), create=False) as store:
        row = store.append("counted", b"2", producer="me", sequence=2)
        assert (row.first, row.duplicate) == (2, True)
        assert store.append("counted", b"3", producer="me", sequence=3).first == 4
        assert store.append("counted", b"1", producer="you", sequence=1).first == 5
        report = feed(store, "flights", [str(source)], FeedOptions(producer="nightly"))
        assert (report.records, report.skipped) == (1, golden.FLIGHTS.count(b"\n"))


def test_an_old_store_by_command(old: Old, pspf: Pspf) -> None:
    found = pspf("-s", old.path, "verify", "--json")
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    findings = [
        [r["topic"], r["partition"], r["kind"], r["severity"]] for r in rows if r["type"] == "finding"
    ]
    assert (found.returncode, findings) == (65, old.expected["findings"])
    wanted = old.records(recovered=True)
    for topic in old.expected["records"]:
        shown = pspf("-s", old.path, "cat", "--json", "--by-partition", "--skip-damaged", topic)
        assert shown.returncode == (65 if topic in DAMAGED | WITH_GAP else 0), shown.stderr
        lines = [envelope.decode(line) for line in shown.stdout.splitlines()]
        assert [
            (one.partition, one.offset, one.timestamp_ms, one.key, one.value, one.headers) for one in lines
        ] == [
            (partition, *record)
            for (name, partition), records in wanted.items()
            if name == topic
            for record in records
        ]


def test_a_golden_store_is_made_and_never_made_anew(
    scratch_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script still works, for the next version that needs it."""
    monkeypatch.setattr(golden, "HERE", scratch_dir)
    assert golden.main() == 0
    made = scratch_dir / golden.version()
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    assert sum(map(len, before.values())) < 100_000
    assert golden.main() == 1
    assert before == {path.name: path.read_bytes() for path in made.iterdir()}
    fresh = Old(str(made), scratch_dir)
    with library.open(str(fresh.path), create=False, read_only=True) as store:
        for (topic, partition), records in fresh.records(recovered=False).items():
            assert read_partition(store, topic, partition) == records
