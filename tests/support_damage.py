"""A log to damage, and looking at what became of it. Nothing here uses the engine to find its way in a
file.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pspf
from pspf import errors
from pspf.format.batch import HEADER_BYTES
from pspf.format.segment import SEGMENT_HEADER_BYTES, parse_segment
from pspf.model import TopicConfig
from pspf.store.store import Store
from pspf.store.verify import DAMAGE, Finding

TOPIC = "t"
SMALL_SEGMENTS = TopicConfig(segment_bytes=64 << 10)


def value(offset: int) -> bytes:
    return b"value %06d " % offset + b"v" * 300


def append(store: Store, count: int, topic: str = TOPIC) -> None:
    for _ in range(count):
        writer = store._writers.get((topic, 0, None))
        at = writer.next_offset if writer is not None else store.reader(topic, 0).end()
        store.append(topic, value(at), timestamp_ms=1_000_000 + at)


def filled(path: Path, count: int, config: TopicConfig | None = None, topic: str = TOPIC) -> None:
    """A cleanly closed store with ``count`` records, one batch each."""
    with pspf.open(str(path)) as store:
        if topic not in store.topics():
            store.create_topic(topic, config)
        append(store, count, topic)


def crashed(path: Path, count: int, config: TopicConfig | None = None) -> Path:
    """The same, but its writer never closed it."""
    store = pspf.open(str(path))
    store.create_topic(TOPIC, config)
    append(store, count)
    copy = path.with_name(path.name + "-crashed")
    shutil.copytree(path, copy)
    store.close()
    return copy


def partition(path: Path, topic: str = TOPIC) -> Path:
    return path / "topics" / topic / "0"


def segments(path: Path, topic: str = TOPIC) -> list[Path]:
    return sorted(partition(path, topic).glob("*.log"))


class Batch:
    """Where a batch lies in a segment file."""

    def __init__(self, position: int, size: int, first: int) -> None:
        self.position = position
        self.size = size
        self.first = first


def batches(segment: Path) -> list[Batch]:
    """By the lengths in the headers, without the engine."""
    return batches_of(segment.read_bytes())


def batches_of(data: bytes) -> list[Batch]:
    """The same for the bytes of a segment file."""
    at, found = SEGMENT_HEADER_BYTES, []
    while data[at : at + 4] == b"PBAT":
        size = HEADER_BYTES + int.from_bytes(data[at + 28 : at + 32], "little")
        found.append(Batch(at, size, int.from_bytes(data[at + 40 : at + 48], "little")))
        at += size
    return found


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def flip(path: Path, position: int) -> None:
    data = path.read_bytes()
    overwrite(path, position, bytes([data[position] ^ 0x10]))


def tear(path: Path, keep: int) -> None:
    with path.open("r+b") as file:
        file.truncate(keep)


def read_all(store: Store, topic: str = TOPIC) -> tuple[dict[int, bytes | None], list[tuple[int, int]]]:
    """All records that can be read, and the ranges that cannot."""
    reader = store.reader(topic, 0)
    records: dict[int, bytes | None] = {}
    damaged: list[tuple[int, int]] = []
    reader.seek(reader.start())
    try:
        while True:
            try:
                found = reader.read()
            except errors.Damaged as error:
                assert error.resume_offset > error.offset, error
                damaged.append((error.offset, error.resume_offset - 1))
                reader.seek(error.resume_offset)
                continue
            if not found:
                return records, damaged
            for batch in found:
                columns = batch.columns()
                records.update(zip(columns.offsets(), columns.values(), strict=True))
    finally:
        reader.close()


def all_but(count: int, *missing: int) -> dict[int, bytes | None]:
    return {offset: value(offset) for offset in range(count) if offset not in missing}


def verify(path: Path) -> list[Finding]:
    with pspf.open(str(path), create=False) as store:
        return store.verify().findings


def damage(path: Path) -> list[tuple[str, int, int]]:
    return [(f.kind, f.first_offset, f.last_offset) for f in verify(path) if f.severity == DAMAGE]


def kinds(path: Path) -> set[str]:
    return {f.kind for f in verify(path)}


def reopened(path: Path, tell: Callable[[str], None] | None = None) -> Store:
    from pspf.store.open import open_store

    return open_store(str(path), create=False, tell=tell)


def appends_go_on(path: Path, at: int) -> None:
    """The next record gets offset ``at``, and is read back."""
    with reopened(path) as store:
        assert store.append(TOPIC, value(at)).first == at
        assert read_all(store)[0][at] == value(at)


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def recovery_run_twice_changes_nothing(path: Path) -> None:
    with reopened(path) as store:
        store.partition_writer(store.topic(TOPIC), 0)
    before = snapshot(path)
    with reopened(path) as store:
        store.partition_writer(store.topic(TOPIC), 0)
    assert snapshot(path) == before


def quarantined(path: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted((path / "quarantine").glob("*"))]


def many_segments(path: Path) -> list[Path]:
    filled(path, 700, SMALL_SEGMENTS)
    found = segments(path)
    assert len(found) >= 4
    assert damage(path) == []
    return found


def base(segment: Path) -> int:
    return int(segment.stem)


def swap(a: Path, b: Path) -> None:
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)


def topic_id(path: Path) -> bytes:
    return parse_segment(segments(path)[0].read_bytes()).topic_id
