"""Append many records in one call: split by partition, written a batch each, synced together at the end."""

from pspf import errors
from pspf.format.encode import encode_records
from pspf.model import Appended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pspf.format.columns import Pairs
    from pspf.log.writer import PartitionWriter, Placed
    from pspf.store.store import Store
    from pspf.store.topics import Topic

BATCH_BYTES = 1 << 20


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
    """See :meth:`pspf.store.store.Store.append_many`; without ``shared_headers`` there is one list for each record."""
    topic, _ = store.ensure_topic(name, create)
    if not values:
        return []
    if keys is not None and len(keys) != len(values):
        raise errors.Usage(f"cannot append to '{name}'", f"{len(keys)} keys for {len(values)} values")
    check_sizes(topic, values, keys)
    if timestamps_ms is None:
        timestamps_ms = store.disk.now_ns() // 1_000_000
    written: "list[tuple[PartitionWriter, int, Placed]]" = []
    for place, wanted in _split(store, topic, values, keys, partition):
        for chunk in _chunks(values, keys, wanted):
            picked_keys = None if keys is None else [keys[i] for i in chunk]
            times = timestamps_ms if isinstance(timestamps_ms, int) else [timestamps_ms[i] for i in chunk]
            picked = values if len(chunk) == len(values) else [values[i] for i in chunk]
            picked_headers = headers if shared_headers or not headers else [headers[i] for i in chunk]
            encoded = encode_records(
                picked, picked_keys, times, picked_headers or None, topic.config.compression == "zstd", shared_headers
            )
            writer = store.partition_writer(topic, place, durability)
            placed = writer.write(encoded)
            if placed.unsynced > 4 << 20:
                writer.acknowledge(placed)
            written.append((writer, place, placed))
    last = {place: (writer, placed) for writer, place, placed in written}
    for writer, placed in last.values():
        writer.acknowledge(placed)
    return [Appended(name, place, p.first, p.last, w.durability, p.duplicate) for w, place, p in written]


def check_sizes(topic: "Topic", values: "Sequence[bytes | None]", keys: "Sequence[bytes | None] | None") -> None:
    """Refuse a record above the topic's ``max_record_bytes`` before anything is written."""
    limit = topic.config.max_record_bytes
    try:
        largest = max(map(len, values))  # type: ignore[arg-type]
    except TypeError:
        largest = max(len(v or b"") for v in values)
    if keys is not None:
        largest += max(len(k or b"") for k in keys)
    if largest <= limit:
        return
    for number, value in enumerate(values):
        size = len(value or b"") + (len(keys[number] or b"") if keys is not None else 0)
        if size > limit:
            raise errors.RecordTooLarge(
                f"cannot append to '{topic.name}'",
                f"record {number} of the call has {size} bytes, above max_record_bytes ({limit})",
                "",
                f"pspf topic alter {topic.name} --max-record-bytes {size}",
            )


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


def _chunks(
    values: "Sequence[bytes | None]", keys: "Sequence[bytes | None] | None", wanted: "Sequence[int]"
) -> "list[Sequence[int]]":
    """Cut a run of records into batches of about 1 MiB."""
    total = sum(len(values[i] or b"") for i in wanted)
    if keys is not None:
        total += sum(len(keys[i] or b"") for i in wanted)
    if total <= BATCH_BYTES:
        return [wanted]
    chunks: "list[Sequence[int]]" = []
    start = size = 0
    for at, i in enumerate(wanted):
        size += len(values[i] or b"") + (len(keys[i] or b"") if keys is not None else 0)
        if size >= BATCH_BYTES:
            chunks.append(wanted[start : at + 1])
            start, size = at + 1, 0
    if start < len(wanted):
        chunks.append(wanted[start:])
    return chunks
