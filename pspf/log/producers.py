"""Idempotent append: what a partition knows of each producer, and the check before a batch is written.

Producer state lies in the log itself: every batch of a producer carries its id and sequence, and a table
batch repeats the whole state now and then, so that it is read back from at most ``max(1 MiB, 32 tables)`` of
headers. A producer's first batch in a partition is preceded by its name: a table, or where there is one
already a batch that adds to it.

What was forgotten is appended twice, and nobody notices. So every segment that follows one with producers
begins with a table, whatever made it (a roll, a heal, a repair), and where damage hides the table the state
is worked out from what lies before it (``pspf.log.lookback``). Where that is gone as well, the entry ``LOST``
says so, and a producer who is not seen in what is left is refused by name.
"""

import pspf
from pspf.format.batch import (
    FLAG_CONTROL,
    FLAG_SOURCE,
    HEADER_BYTES,
    KIND_PRODUCERS,
    KIND_TABLE,
    NO_TABLE,
    Encoded,
    batch_crc_of,
    header_fault,
    parse_header,
)
from pspf.format.producers import (
    KEEP_RANGES,
    MOST_SOURCE_BYTES,
    SEQUENCE_MASK,
    SOURCE_BYTES,
    Producer,
    decode_table,
    encode_table,
    pack_source,
    unpack_source,
)
from pspf.log.end import NOT_KNOWN, Placed
from pspf.log.others import end_now
from pspf.log.scan import hop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.disk.real import Disk
    from pspf.format.batch import Header
    from pspf.log.end import End
    from pspf.log.files import PartitionFiles, Segment
    from pspf.log.writer import PartitionWriter

TABLE_DISTANCE = 1 << 20
EXPIRY_MS = 7 * 24 * 3600 * 1000

JUMP_MS = 24 * 3600 * 1000
"""From one batch to the next no more time than this passes for producers: a clock that jumped a week ahead,
even for one append, must not make everybody forgotten.
"""

MAX_PRODUCERS = 100_000
"""Used within seven days, in one partition: their table then fits a batch, however long the names are."""

LOST = -1
"""Id of the entry that stands for all whom damage made us forget; it expires as they would have."""


class ProducerCheck:
    """What an append says of its producer.

    ``sequence`` is the number of its first record, counted per partition from 0; None takes the next one.
    The source fields are
    for input that can be read again: bytes up to the end of this batch, CRC-32 of the input up to there, the
    partition count that placed its records, ``placement`` and ``counted_from`` as in
    :class:`pspf.format.producers.Producer`. ``epoch``: None goes on with the producer's; a higher one fences
    older handles. ``anew``: the caller says that nothing which was appended before matters.
    """

    __slots__ = (
        "anew",
        "counted_from",
        "epoch",
        "name",
        "partitions",
        "placement",
        "producer_id",
        "sequence",
        "source_crc",
        "source_position",
    )

    def __init__(
        self,
        producer_id: int,
        name: str,
        sequence: "int | None" = None,
        source_position: "int | None" = None,
        source_crc: int = 0,
        partitions: int = 0,
        epoch: "int | None" = None,
        anew: bool = False,
        placement: int = 0,
        counted_from: int = 0,
    ) -> None:
        self.placement = placement
        self.counted_from = counted_from
        self.anew = anew
        self.producer_id = producer_id
        self.name = name
        self.sequence = sequence
        self.source_position = source_position
        self.source_crc = source_crc
        self.partitions = partitions
        self.epoch = epoch


class ProducerState:
    """The producers of a partition, up to ``position`` of one segment.

    ``clock_ms`` is the time of the last batch, ``table_bytes`` the size of the last table. ``due``: that one
    could not be read, so the next append by a producer writes another.
    """

    __slots__ = ("clock_ms", "due", "known", "position", "segment_id", "table_bytes")

    def __init__(self, segment_id: int, position: int) -> None:
        self.segment_id = segment_id
        self.position = position
        self.known: "dict[int, Producer]" = {}
        self.table_bytes = 0
        self.clock_ms = 0
        self.due = False

    def pass_time(self, now_ms: int) -> None:
        """The log's clock goes on to ``now_ms``. What is more than a step takes nobody's time."""
        jump = now_ms - self.clock_ms - JUMP_MS
        if jump > 0:
            for p in self.known.values():
                p.used_ms += jump
        self.clock_ms = max(self.clock_ms, now_ms)

    def expired(self, p: Producer) -> bool:
        """Whether somebody may be forgotten."""
        return self.clock_ms - p.used_ms > EXPIRY_MS

    def lost(self) -> bool:
        """Whether damage may have made us forget somebody."""
        p = self.known.get(LOST)
        return p is not None and not self.expired(p)


def load(files: "PartitionFiles", end: "End", state: "ProducerState | None" = None) -> ProducerState:
    """Producer state at ``end``, going on from an earlier ``state`` where it is of the same segment."""
    segment = end.segment
    if end.producers == NO_TABLE:
        return ProducerState(segment.segment_id, end.position)
    if state is None or state.segment_id != segment.segment_id or state.position > end.position:
        if end.producers == NOT_KNOWN or not _begins_at(files.disk, segment, end.producers):
            from pspf.log.lookback import look_back

            state = look_back(files, end)
            if not state.known:
                end.producers = NO_TABLE
            return state
        state = ProducerState(segment.segment_id, end.producers)
    walk(files.disk, segment, state, end.position)
    return state


def _begins_at(disk: "Disk", segment: "Segment", position: int) -> bool:
    """Whether producer state can be read from ``position`` on."""
    raw = disk.pread(segment.fd, HEADER_BYTES, position)
    if header_fault(raw, 0, segment.segment_id, position):
        return False
    header = parse_header(raw)
    return header.kind != KIND_TABLE or read_table(disk, segment, position, header) is not None


def read_table(disk: "Disk", segment: "Segment", position: int, header: "Header") -> "list[Producer] | None":
    """The entries of a table, or of what adds to one; None if they are damaged."""
    raw = disk.pread(segment.fd, header.size, position)
    if batch_crc_of(raw[:HEADER_BYTES], raw[HEADER_BYTES:]) != header.batch_crc:
        return None
    try:
        return decode_table(raw[HEADER_BYTES:])
    except ValueError:
        return None


def walk(disk: "Disk", segment: "Segment", state: ProducerState, to: int) -> None:
    """Take ``state`` on to position ``to`` of ``segment``, header by header.

    A batch that cannot be read does not count: it is not in the log for readers either, so that whoever
    repeats it appends it again.
    """
    for position, header in hop(disk, segment.fd, segment.segment_id, state.position, to):
        state.pass_time(header.append_ns // 1_000_000)
        if header.kind == KIND_TABLE or header.kind == KIND_PRODUCERS:
            listed = read_table(disk, segment, position, header)
            if listed is None:
                state.due = True
            elif header.kind == KIND_TABLE:
                state.known = {p.producer_id: p for p in listed}
                state.table_bytes = header.body_length
                state.due = False
            else:
                state.known.update((p.producer_id, p) for p in listed)
        elif header.producer_id >= 0:
            p = state.known.get(header.producer_id)
            if p is None:
                p = state.known[header.producer_id] = Producer(header.producer_id)
            p.epoch = header.producer_epoch
            p.used_ms = header.append_ns // 1_000_000
            p.next_sequence = (header.base_sequence + header.count) & SEQUENCE_MASK
            p.ranges = [
                *p.ranges[1 - KEEP_RANGES :],
                (header.base_sequence, header.count, header.base_offset),
            ]
            if header.flags & FLAG_SOURCE and header.extension_length >= SOURCE_BYTES:
                size = min(header.extension_length, MOST_SOURCE_BYTES)
                raw = disk.pread(segment.fd, size, position + HEADER_BYTES)
                p.source_position, p.source_crc, p.partitions, p.placement, p.counted_from = unpack_source(
                    raw
                )
        state.position = position + header.size  # at once: should a later read fail, none is counted twice
    state.position = to


def known_producer(
    writer: "PartitionWriter", producer_id: int, name: str = "", anew: bool = False
) -> "Producer | None":
    """What the log knows of a producer now.

    :raises pspf.errors.ProducerConflict: damage hides whether it does, and ``anew`` does not say that this is
        of no matter.
    """
    end_now(writer)
    with writer.mutex:
        state = writer.producers = load(writer.files, writer.end, writer.producers)
        p = state.known.get(producer_id)
        if p is None and not anew and state.lost():
            raise _forgotten(writer, name)
        return p


def _forgotten(writer: "PartitionWriter", name: str) -> "pspf.errors.ProducerConflict":
    return pspf.errors.ProducerConflict(
        f"cannot append to {writer.identity} as producer '{name}'",
        "damage to the log hides what it has appended already",
        writer.identity.path,
        "see pspf verify; if nothing of this input was appended before, begin a new one with: --new-source",
    )


def table_of(
    state: ProducerState, now_ms: int, adding: "Producer | None" = None, keep: int = LOST
) -> Encoded:
    """The table batch for ``state``, without producers that were not used for seven days.

    :param adding: an entry that is not in the log yet.
    :param keep: id of one who is about to append.
    """
    whole = ProducerState(state.segment_id, state.position)
    whole.clock_ms = state.clock_ms
    whole.known = {p.producer_id: p for p in state.known.values()}
    if now_ms - state.clock_ms > JUMP_MS:  # the table is to say so, and not what lies in memory
        whole.known = {p.producer_id: p for p in decode_table(encode_table(list(state.known.values())))}
    whole.pass_time(now_ms)
    if adding is not None:
        whole.known[adding.producer_id] = adding
    listed = [p for p in whole.known.values() if not whole.expired(p) or p.producer_id == keep >= 0]
    return Encoded([encode_table(listed)], 0, 0, FLAG_CONTROL, KIND_TABLE)


def table_batch(writer: "PartitionWriter") -> Encoded:
    """The table that a new segment begins with."""
    state = writer.producers = load(writer.files, writer.end, writer.producers)
    return table_of(state, writer.files.disk.now_ns() // 1_000_000)


def table_at(files: "PartitionFiles", end: "End") -> "Encoded | None":
    """The table that a segment behind ``end`` begins with; None where nobody can have been forgotten."""
    state = load(files, end)
    return table_of(state, files.disk.now_ns() // 1_000_000) if state.known else None


def before_append(
    writer: "PartitionWriter", encoded: Encoded, check: "ProducerCheck | None"
) -> "Placed | None":
    """Check the producer and stamp the batch; a table batch, or one that adds to it, is written first where
    one is due.

    What is known comes from the log alone: should that write fail, the next append finds it due again.

    :returns: where the records already are, when this is a repeat.
    :raises pspf.errors.ProducerConflict: the sequence does not continue what this producer appended.
    """
    end = writer.end
    if check is None and (end.producers == NO_TABLE or end.position - end.producers <= TABLE_DISTANCE):
        return None
    state = writer.producers = load(writer.files, end, writer.producers)
    adding = None
    if check is not None:
        known = _check(writer, state, encoded, check)
        if known is not None:
            return known
        adding = _unnamed(writer, state, check)
    distance = end.position - end.producers if end.producers != NO_TABLE else 0
    due = state.due or distance > max(TABLE_DISTANCE, 32 * state.table_bytes)
    if adding is None and not due:
        return None
    now_ms = max(writer.files.disk.now_ns() // 1_000_000, state.clock_ms)
    if adding is not None:
        adding.used_ms = adding.used_ms or now_ms
    if adding is None or due or end.producers == NO_TABLE:
        batch = table_of(state, now_ms, adding, check.producer_id if check is not None else LOST)
    else:
        batch = Encoded([encode_table([adding])], 0, 0, FLAG_CONTROL, KIND_PRODUCERS)
    writer.put(batch, HEADER_BYTES + batch.body_length)
    return None


def _unnamed(writer: "PartitionWriter", state: ProducerState, check: ProducerCheck) -> "Producer | None":
    """An entry for a producer whose name no table has."""
    p = state.known.get(check.producer_id)
    if p is not None:
        if p.name:
            return None
        named = decode_table(encode_table([p]))[0]
        named.name = check.name
        return named
    if len(state.known) >= MAX_PRODUCERS:
        state.due = True  # the next table leaves out whom it may
        if sum(not state.expired(p) for p in state.known.values()) >= MAX_PRODUCERS:
            raise pspf.errors.ProducerConflict(
                f"cannot append to {writer.identity} as producer '{check.name}'",
                f"{MAX_PRODUCERS} others did within seven days, and no more are remembered",
                "",
                "use the same name again for what comes from the same source",
            )
    return Producer(check.producer_id, check.name)


def _check(
    writer: "PartitionWriter", state: ProducerState, encoded: Encoded, check: ProducerCheck
) -> "Placed | None":
    p = state.known.get(check.producer_id)
    if p is None and not check.anew and state.lost():
        raise _forgotten(writer, check.name)
    what = f"cannot append to {writer.identity} as producer '{check.name}'"
    if p is not None and p.name and p.name != check.name:
        raise pspf.errors.ProducerConflict(
            what, f"its id is taken by producer '{p.name}'", "", "choose another name"
        )
    expected = p.next_sequence if p is not None else 0
    sequence = expected if check.sequence is None else check.sequence & SEQUENCE_MASK
    behind = (expected - sequence) & SEQUENCE_MASK
    epoch = p.epoch if p is not None else 0
    if check.epoch is not None and check.epoch < epoch:
        raise pspf.errors.ProducerConflict(what, f"a newer run of this producer has begun (epoch {epoch})")
    if behind == 0:
        encoded.producer_epoch = epoch if check.epoch is None else check.epoch
        encoded.producer_id = check.producer_id
        encoded.base_sequence = sequence
        if check.source_position is not None and not encoded.extension_length:
            encoded.flags |= FLAG_SOURCE
            position, crc, count = check.source_position, check.source_crc, check.partitions
            encoded.extend(pack_source(position, crc, count, check.placement, check.counted_from))
        return None
    if p is None or behind > SEQUENCE_MASK // 2:
        why = f"sequence {sequence} leaves a gap: the next one is {expected}"
        if p is None:
            why = (
                f"sequence {sequence}, but nothing is known of this producer (new, or unused for seven days)"
            )
        raise pspf.errors.ProducerConflict(what, why)
    for first, count, base in p.ranges:
        if first == sequence and count == encoded.count:
            return Placed(base, base + count - 1, base + count, 0, duplicate=True)
    if behind >= encoded.count:
        return Placed(-1, -1, writer.end.offset, 0, duplicate=True)
    raise pspf.errors.ProducerConflict(
        what,
        f"records {sequence} to {sequence + encoded.count - 1} are only partly appended:"
        f" the next one is {expected}",
    )
