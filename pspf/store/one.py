"""Append one record: what :meth:`pspf.store.store.Store.append` does."""

from pspf.format.encode import encode_records
from pspf.model import Appended
from pspf.store.record import take_record, too_large
from pspf.store.topics import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.columns import Pairs
    from pspf.store.record import Value
    from pspf.store.store import Store


def append_one(
    store: "Store",
    topic: str,
    value: "Value",
    key: "Value",
    headers: "Pairs",
    timestamp_ms: "int | None",
    partition: "int | None",
    durability: "str | None",
    producer: "str | None",
    sequence: "int | None",
    expect_offset: "int | None",
    create: bool,
) -> Appended:
    """See :meth:`pspf.store.store.Store.append`."""
    if sequence is not None:
        from pspf.store.refuse import check_sequence

        check_sequence(topic, producer, sequence)
    raw, raw_key, pairs, size = take_record(topic, value, key, headers, timestamp_ms)
    found = store.find_topic(topic) or store.ensure_topic(topic, create)[0]
    config = found.config
    if size > config.max_record_bytes:
        raise too_large(topic, size, config.max_record_bytes)
    place = store.place(found, raw_key) if partition is None else partition
    writer = store.partition_writer(found, place, durability)
    encoded = encode_records(
        (raw,),
        None if raw_key is None else (raw_key,),
        store.disk.now_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms,
        pairs or None,
        config.compression == "zstd",
    )
    check = None
    if producer is not None:
        from pspf.format.producers import id_of
        from pspf.log.producers import ProducerCheck

        check_name(producer, "producer")
        check = ProducerCheck(id_of(producer), producer, sequence)
    placed = writer.append(encoded, expect_offset, check)
    return Appended(topic, place, placed.first, placed.last, writer.durability, placed.duplicate)
