"""Append many records in one call: split by partition, written a batch each, synced together at the end."""

from bisect import bisect_left
from itertools import accumulate

from pspf import errors
from pspf.format.encode import encode_records
from pspf.model import MAX_BATCH_RECORDS, Appended
from pspf.store.feed import CHUNK_BYTES, SyncBehind
from pspf.store.record import take_pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from pspf.format.columns import Pairs
    from pspf.store.store import Store
    from pspf.store.topics import Topic

    T = TypeVar("T")

BATCH_BYTES = CHUNK_BYTES


def append_many(
    store: "Store",
    name: str,
    values: "Sequence[bytes | None]",
    keys: "Sequence[bytes | None] | None",
    headers: "Sequence[Pairs] | Pairs",
    timestamps_ms: "Sequence[int] | int | None",
    partition: "int | None",
    durability: "str | None",
    create: bool,
    shared_headers: bool = True,
) -> "list[Appended]":
    """See :meth:`pspf.store.store.Store.append_many`; without ``shared_headers`` there is one list for each
    record.
    """
    topic, _ = store.ensure_topic(name, create)
    count = len(values)
    if not count:
        return []
    if keys is not None and len(keys) != count:
        raise errors.Usage(f"cannot append to '{name}'", f"{len(keys)} keys for {count} values")
    if timestamps_ms is None:
        timestamps_ms = store.disk.now_ns() // 1_000_000
    elif not isinstance(timestamps_ms, int) and len(timestamps_ms) != count:
        raise errors.Usage(
            f"cannot append to '{name}'", f"{len(timestamps_ms)} timestamps for {count} values"
        )
    sizes = checked_sizes(topic, values, keys, headers, shared_headers)
    compress = topic.config.compression == "zstd"
    behind = SyncBehind()
    rows = []
    for place, wanted in _split(store, topic, values, keys, partition):
        for chunk in _chunks(sizes, wanted):
            encoded = encode_records(
                _pick(values, chunk),
                None if keys is None else _pick(keys, chunk),
                timestamps_ms if isinstance(timestamps_ms, int) else _pick(timestamps_ms, chunk),
                (headers if shared_headers or not headers else _pick(headers, chunk)) or None,  # type: ignore[arg-type]
                compress,
                shared_headers,
            )
            writer = store.partition_writer(topic, place, durability)
            placed = writer.write(encoded)
            behind.add(writer, placed, encoded.body_length)
            rows.append(Appended(name, place, placed.first, placed.last, writer.durability, placed.duplicate))
    behind.settle()
    return rows


def _pick(column: "Sequence[T]", chosen: "Sequence[int]") -> "Sequence[T]":
    if isinstance(chosen, range):
        return column if len(chosen) == len(column) else column[chosen.start : chosen.stop]
    return [column[i] for i in chosen]


def checked_sizes(
    topic: "Topic",
    values: "Sequence[bytes | None]",
    keys: "Sequence[bytes | None] | None",
    headers: "Sequence[Pairs] | Pairs" = (),
    shared_headers: bool = True,
) -> "list[int]":
    """The size of each record; one above the topic's ``max_record_bytes`` is refused before anything is
    written.
    """
    limit = topic.config.max_record_bytes
    try:
        sizes = list(map(len, values))  # type: ignore[arg-type]
    except TypeError:
        sizes = [len(v or b"") for v in values]
    if keys is not None:
        sizes = [n + len(k) if k is not None else n for n, k in zip(sizes, keys, strict=True)]
    if headers and shared_headers:
        more = take_pairs(topic.name, headers)[1]
        sizes = [n + more for n in sizes]
    elif headers:
        sizes = [n + take_pairs(topic.name, h)[1] for n, h in zip(sizes, headers, strict=True)]
    if max(sizes) > limit:
        number = next(i for i, n in enumerate(sizes) if n > limit)
        raise errors.RecordTooLarge(
            f"cannot append to '{topic.name}'",
            f"record {number} of the call has {sizes[number]} bytes, above max_record_bytes ({limit})",
            "",
            f"pspf topic alter {topic.name} --max-record-bytes {sizes[number]}",
        )
    return sizes


def _split(
    store: "Store",
    topic: "Topic",
    values: "Sequence[bytes | None]",
    keys: "Sequence[bytes | None] | None",
    partition: "int | None",
) -> "list[tuple[int, Sequence[int]]]":
    everything = range(len(values))
    if partition is not None:
        return [(partition, everything)]
    if topic.config.partitions == 1 or keys is None:
        return [(store.place(topic, None), everything)]
    by_partition: "dict[int, list[int]]" = {}
    for number, key in enumerate(keys):
        by_partition.setdefault(store.place(topic, key), []).append(number)
    return sorted(by_partition.items())


def _chunks(sizes: "list[int]", wanted: "Sequence[int]") -> "list[Sequence[int]]":
    """Cut a run of records into batches of about a megabyte."""
    picked = sizes if len(wanted) == len(sizes) else [sizes[i] for i in wanted]
    ends = list(accumulate(picked))
    chunks: "list[Sequence[int]]" = []
    start = done = 0
    while start < len(ends):
        stop = min(bisect_left(ends, done + BATCH_BYTES, start) + 1, start + MAX_BATCH_RECORDS, len(ends))
        chunks.append(wanted[start:stop])
        start, done = stop, ends[stop - 1]
    return chunks
