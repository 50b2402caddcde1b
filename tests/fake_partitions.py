"""Partitions in memory, cut into batches as a test says: the contract of PartitionReader, without a disk."""

from collections.abc import Sequence
from itertools import pairwise

from pspf import errors
from pspf.format.batch import Encoded, parse_header
from pspf.format.encode import encode_lines, encode_records
from pspf.log.reader import RawBatch
from pspf.model import TopicConfig
from pspf.store.store import partition_of
from pspf.store.topics import Topic

Row = tuple[int, bytes | None, bytes | None]
"""Timestamp, key, value."""


def raw_batch(encoded: Encoded, base_offset: int) -> RawBatch:
    head = encoded.seal(base_offset, 0, 1000 + base_offset, 7, 0, 0, 0, 0)
    return RawBatch(parse_header(head), head, b"".join(encoded.parts), 0, "fake.log")


def cut(rows: Sequence[Row], at: Sequence[int], base: int = 0, compress: bool = False) -> list[RawBatch]:
    """``rows`` as batches that end at the places ``at``."""
    places = sorted({0, len(rows), *(p for p in at if 0 < p < len(rows))})
    batches = []
    for lo, hi in pairwise(places):
        part = rows[lo:hi]
        keys = [key for _, key, _ in part]
        encoded = encode_records(
            [value for _, _, value in part],
            keys if any(key is not None for key in keys) else None,
            [time for time, _, _ in part],
            compress=compress,
        )
        batches.append(raw_batch(encoded, base + lo))
    return batches


def lines(texts: Sequence[bytes], base: int, timestamp_ms: int) -> RawBatch:
    return raw_batch(encode_lines(b"".join(t + b"\n" for t in texts), list(texts), timestamp_ms, False), base)


class FakeReader:
    """Gives its batches one or more at a time; those whose base offset is in ``broken`` are damaged."""

    def __init__(
        self,
        partition: int,
        batches: list[RawBatch],
        broken: Sequence[int] = (),
        log_start: int = 0,
        at_once: int = 3,
        topic: str = "t",
        visible: int | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.batches = batches
        self.broken = broken
        self.log_start = log_start
        self.at_once = at_once
        self.visible = visible
        self.next_offset = 0
        self.skipped = 0
        self.reads = 0
        self.closed = False
        self.commit_path = f"/nowhere/topics/{topic}/{partition}/commit"

    def start(self) -> int:
        return self.log_start

    def end(self) -> int:
        if self.visible is not None:
            return self.visible
        return self.batches[-1].header.next_offset if self.batches else 0

    def seek(self, offset: int) -> None:
        if offset < self.log_start:
            self.skipped += self.log_start - offset
            offset = self.log_start
        self.next_offset = offset

    def rows(self) -> list[tuple[int, int]]:
        """Offset and time of every record."""
        found: list[tuple[int, int]] = []
        for raw in self.batches:
            times = raw.columns().timestamps() or [raw.header.base_timestamp] * raw.header.count
            found += zip(raw.columns().offsets(), times, strict=True)
        return [row for row in found if self.log_start <= row[0] < self.end()]

    def seek_time(self, ms: int) -> int:
        return next((offset for offset, time in self.rows() if time >= ms), self.end())

    def seek_back(self, count: int) -> int:
        rows = self.rows()
        if count <= 0:
            return self.end()
        return rows[-count][0] if len(rows) >= count else self.log_start

    def read(self, max_bytes: int = 1 << 20) -> list[RawBatch]:
        self.reads += 1
        found: list[RawBatch] = []
        for raw in self.batches:
            header = raw.header
            if header.next_offset <= self.next_offset or header.next_offset > self.end():
                continue
            if header.base_offset in self.broken:
                if found:
                    break
                raise errors.Damaged(
                    f"damage in {self.topic}/{self.partition} at offset {self.next_offset}",
                    "batch CRC mismatch",
                    offset=self.next_offset,
                    resume_offset=header.next_offset,
                )
            found.append(raw)
            self.next_offset = header.next_offset
            if len(found) == self.at_once:
                break
        return found

    def close(self) -> None:
        self.closed = True


class FakeStore:
    """A store of one topic."""

    path = "/nowhere"

    def __init__(self, *readers: FakeReader) -> None:
        self.readers = {reader.partition: reader for reader in readers}

    def find_topic(self, topic: str) -> Topic | None:
        config = TopicConfig(partitions=max(self.readers) + 1)
        return Topic(topic, "", -1, bytes(16), 0, config, b"", (0, 0)) if topic == "t" else None

    def no_such_topic(self, topic: str) -> errors.NoSuchTopic:
        return errors.NoSuchTopic(f"no topic '{topic}'")

    def partition_count(self, topic: str) -> int:
        return max(self.readers) + 1

    def partition_of(self, key: bytes, partitions: int) -> int:
        return partition_of(key, partitions)

    def reader(self, topic: str, partition: int) -> FakeReader:
        if partition not in self.readers:
            raise errors.NoSuchPartition(f"no partition {partition}")
        reader = self.readers[partition]
        reader.next_offset = 0
        return reader
