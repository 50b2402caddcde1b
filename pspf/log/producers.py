"""Idempotent append: what a partition knows of each producer, and the check before a batch is written.

Producer state lies in the log itself: every batch of a producer carries its id and sequence, and a table
batch repeats the whole
state now and then, so that it is read back from at most ``max(1 MiB, 32 x the table)`` of headers. A
producer's first
batch in a partition is preceded by a table with its name.
"""

from pspf import errors
from pspf.format.batch import (
    FLAG_CONTROL,
    FLAG_SOURCE,
    HEADER_BYTES,
    KIND_TABLE,
    NO_TABLE,
    Encoded,
    batch_crc_of,
)
from pspf.format.producers import (
    KEEP_RANGES,
    SEQUENCE_MASK,
    SOURCE,
    Producer,
    decode_table,
    encode_table,
)
from pspf.log.end import Placed
from pspf.log.scan import hop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.log.end import End
    from pspf.log.files import PartitionFiles
    from pspf.log.writer import PartitionWriter

TABLE_DISTANCE = 1 << 20
EXPIRY_MS = 7 * 24 * 3600 * 1000


class ProducerCheck:
    """What an append says of its producer.

    ``sequence`` is the number of its first record, counted per partition from 0; None takes the next one.
    The source fields are
    for input that can be read again: bytes up to the end of this batch, CRC-32 of the input up to there, and
    the
    partition count that placed its records. ``epoch``: None goes on with the producer's; a higher one fences
    older handles.
    """

    __slots__ = ("epoch", "name", "partitions", "producer_id", "sequence", "source_crc", "source_position")

    def __init__(
        self,
        producer_id: int,
        name: str,
        sequence: "int | None" = None,
        source_position: "int | None" = None,
        source_crc: int = 0,
        partitions: int = 0,
        epoch: "int | None" = None,
    ) -> None:
        self.producer_id = producer_id
        self.name = name
        self.sequence = sequence
        self.source_position = source_position
        self.source_crc = source_crc
        self.partitions = partitions
        self.epoch = epoch


class ProducerState:
    """The producers of a partition, up to ``position`` of one segment."""

    __slots__ = ("known", "position", "segment_id", "table_bytes")

    def __init__(self, segment_id: int, position: int) -> None:
        self.segment_id = segment_id
        self.position = position
        self.known: "dict[int, Producer]" = {}
        self.table_bytes = 0


def load(files: "PartitionFiles", end: "End", state: "ProducerState | None" = None) -> ProducerState:
    """Producer state at ``end``, going on from an earlier ``state`` where it is of the same segment."""
    segment = end.segment
    if end.producers == NO_TABLE:
        return ProducerState(segment.segment_id, end.position)
    if state is None or state.segment_id != segment.segment_id:
        state = ProducerState(segment.segment_id, end.producers)
    if state.position == end.position:
        return state
    disk = files.disk
    for position, header in hop(disk, segment.fd, segment.segment_id, state.position, end.position):
        if header.kind == KIND_TABLE:
            raw = disk.pread(segment.fd, header.size, position)
            body = raw[HEADER_BYTES:]
            try:
                if batch_crc_of(raw[:HEADER_BYTES], body) != header.batch_crc:
                    raise ValueError("its CRC does not match")
                state.known = {p.producer_id: p for p in decode_table(body)}
            except ValueError as error:
                raise errors.Damaged(
                    f"cannot read the producers of {files.identity}",
                    str(error),
                    f"{files.path_of(segment)} at byte {position}",
                    f"pspf verify {files.identity.topic}",
                    path=files.path_of(segment),
                    position=position,
                    offset=header.base_offset,
                ) from None
            state.table_bytes = header.body_length
            continue
        if header.producer_id < 0:
            continue
        p = state.known.get(header.producer_id)
        if p is None:
            p = state.known[header.producer_id] = Producer(header.producer_id)
        p.epoch = header.producer_epoch
        p.used_ms = header.append_ns // 1_000_000
        p.next_sequence = (header.base_sequence + header.count) & SEQUENCE_MASK
        p.ranges = [*p.ranges[1 - KEEP_RANGES :], (header.base_sequence, header.count, header.base_offset)]
        if header.flags & FLAG_SOURCE and header.extension_length >= SOURCE.size:
            raw = disk.pread(segment.fd, SOURCE.size, position + HEADER_BYTES)
            p.source_position, p.source_crc, p.partitions = SOURCE.unpack(raw)
    state.position = end.position
    return state


def known_producer(writer: "PartitionWriter", producer_id: int) -> "Producer | None":
    """What the log knows of a producer now."""
    writer.refreshed_end()
    state = writer.producers = load(writer.files, writer.end, writer.producers)
    return state.known.get(producer_id)


def table_of(state: ProducerState, now_ms: int) -> Encoded:
    """The table batch for ``state``, without producers that were not used for seven days."""
    for p in list(state.known.values()):
        if p.used_ms and now_ms - p.used_ms > EXPIRY_MS:
            del state.known[p.producer_id]
    body = encode_table(list(state.known.values()))
    return Encoded([body], 0, 0, FLAG_CONTROL, KIND_TABLE)


def table_batch(writer: "PartitionWriter") -> Encoded:
    """The table that a new segment begins with."""
    state = writer.producers = load(writer.files, writer.end, writer.producers)
    return table_of(state, writer.files.disk.now_ns() // 1_000_000)


def before_append(
    writer: "PartitionWriter", encoded: Encoded, check: "ProducerCheck | None"
) -> "Placed | None":
    """Check the producer and stamp the batch; a table batch is written first where one is due.

    :returns: where the records already are, when this is a repeat.
    :raises pspf.errors.ProducerConflict: the sequence does not continue what this producer appended.
    """
    end = writer.end
    distance = end.position - end.producers if end.producers != NO_TABLE else 0
    if check is None and distance <= TABLE_DISTANCE:
        return None
    state = writer.producers = load(writer.files, end, writer.producers)
    due = distance > max(TABLE_DISTANCE, 32 * state.table_bytes)
    if check is not None:
        known = _check(writer, state, encoded, check)
        if known is not None:
            return known
        if check.producer_id not in state.known:
            state.known[check.producer_id] = Producer(check.producer_id, check.name)
            due = True
    if due:
        table = table_of(state, writer.files.disk.now_ns() // 1_000_000)
        size = HEADER_BYTES + table.body_length
        writer.put(table, size)
    return None


def _check(
    writer: "PartitionWriter", state: ProducerState, encoded: Encoded, check: ProducerCheck
) -> "Placed | None":
    p = state.known.get(check.producer_id)
    what = f"cannot append to {writer.identity} as producer '{check.name}'"
    if p is not None and p.name and p.name != check.name:
        raise errors.ProducerConflict(
            what, f"its id is taken by producer '{p.name}'", "", "choose another name"
        )
    expected = p.next_sequence if p is not None else 0
    sequence = expected if check.sequence is None else check.sequence & SEQUENCE_MASK
    behind = (expected - sequence) & SEQUENCE_MASK
    epoch = p.epoch if p is not None else 0
    if check.epoch is not None and check.epoch < epoch:
        raise errors.ProducerConflict(what, f"a newer run of this producer has begun (epoch {epoch})")
    if behind == 0:
        encoded.producer_epoch = epoch if check.epoch is None else check.epoch
        encoded.producer_id = check.producer_id
        encoded.base_sequence = sequence
        if check.source_position is not None and not encoded.extension_length:
            encoded.flags |= FLAG_SOURCE
            encoded.extend(SOURCE.pack(check.source_position, check.source_crc, check.partitions))
        return None
    if behind > SEQUENCE_MASK // 2:
        why = f"sequence {sequence} leaves a gap: the next one is {expected}"
        if p is None:
            why = (
                f"sequence {sequence}, but nothing is known of this producer (new, or unused for seven days)"
            )
        raise errors.ProducerConflict(what, why)
    assert p is not None
    for first, count, base in p.ranges:
        if first == sequence and count == encoded.count:
            return Placed(base, base + count - 1, base + count, 0, duplicate=True)
    if behind >= encoded.count:
        return Placed(-1, -1, writer.end.offset, 0, duplicate=True)
    raise errors.ProducerConflict(
        what,
        f"records {sequence} to {sequence + encoded.count - 1} are only partly appended:"
        f" the next one is {expected}",
    )
