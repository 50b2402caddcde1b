"""The values that pass between the floors: records, positions, and a topic's settings.

Plain classes with ``__slots__``; dataclasses cost more at start-up than a whole append. They are treated as
frozen: nobody changes one after it was made.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Headers = "Sequence[tuple[str, bytes | None]]"

MAX_NAME = 200
MAX_BATCH_BODY = 64 << 20
"""Largest batch body in bytes, compressed or not; a reader allocates at most this much for a header."""
MAX_BATCH_RECORDS = 1 << 20
"""Most records of a batch: a compressed byte can stand for thousands, and each is an object in memory."""
MAX_NUMBER = (1 << 63) - 1
"""Offsets and sequences of slots are never above it. A forged one is damage: it could not have a next."""
MAX_HEADER_NAME = 0xFFFF
"""Most bytes in the name of a record's header: its length is stored in 16 bits."""


class Record:
    """One record as it is read.

    ``timestamp_ms`` is the record's own time; ``append_time_ns`` is the host's clock when it was appended.
    ``key`` and ``value`` are bytes or None; an empty value and no value are different things.
    """

    __slots__ = ("append_time_ns", "headers", "key", "offset", "partition", "timestamp_ms", "topic", "value")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: "Sequence[tuple[str, bytes | None]]" = (),
        append_time_ns: int = 0,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        self.key = key
        self.value = value
        self.headers = headers
        self.append_time_ns = append_time_ns

    def __repr__(self) -> str:
        return (
            f"Record({self.topic!r}, {self.partition}, offset={self.offset}, "
            f"timestamp_ms={self.timestamp_ms}, key={self.key!r}, value={self.value!r})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Record.__slots__)

    def __hash__(self) -> int:
        return hash((self.topic, self.partition, self.offset))


class Appended:
    """Where an append went: records ``first`` to ``last`` (inclusive) of one partition.

    ``durability`` says what was true when it returned: ``sync`` (on stable storage), ``interval``, ``os``
    (in the page cache). ``duplicate`` is true when a producer had already appended exactly this.
    """

    __slots__ = ("duplicate", "durability", "first", "last", "partition", "topic")

    def __init__(
        self, topic: str, partition: int, first: int, last: int, durability: str, duplicate: bool = False
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.first = first
        self.last = last
        self.durability = durability
        self.duplicate = duplicate

    def __repr__(self) -> str:
        return f"Appended({self.topic!r}, {self.partition}, {self.first}..{self.last}, {self.durability})"


class TopicConfig:
    """The settings of a topic, as they stand in ``topic.toml``.

    :param partitions: how many logs the topic is divided into, 1 to 10,000.
    :param durability: ``sync`` (acknowledged = on stable storage), ``interval`` (synced every
        ``interval_ms``) or ``os`` (survives a killed process, not a power cut).
    :param compression: ``none`` or ``zstd``.
    :param max_record_bytes: largest record: key, value and headers together.
    :param segment_bytes: a segment is closed when it would grow past this.
    :param preallocate: write zeros ahead of small durable appends, which makes them faster.
    :param on_damage: ``continue`` opens a new segment behind a damaged end; ``stop`` waits for ``repair``.
    """

    __slots__ = (
        "compression",
        "durability",
        "interval_ms",
        "max_record_bytes",
        "on_damage",
        "partitions",
        "preallocate",
        "segment_bytes",
    )

    def __init__(
        self,
        partitions: int = 1,
        durability: str = "sync",
        interval_ms: int = 1000,
        compression: str = "none",
        max_record_bytes: int = 16 << 20,
        segment_bytes: int = 64 << 20,
        preallocate: bool = True,
        on_damage: str = "continue",
    ) -> None:
        self.partitions = partitions
        self.durability = durability
        self.interval_ms = interval_ms
        self.compression = compression
        self.max_record_bytes = max_record_bytes
        self.segment_bytes = segment_bytes
        self.preallocate = preallocate
        self.on_damage = on_damage

    def items(self) -> "list[tuple[str, int | str | bool]]":
        """Every setting and its value, in the order in which they are written."""
        return [(name, getattr(self, name)) for name in SETTINGS]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopicConfig) and self.items() == other.items()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "TopicConfig(" + ", ".join(f"{n}={v!r}" for n, v in self.items()) + ")"


SETTINGS = (
    "partitions",
    "durability",
    "interval_ms",
    "compression",
    "max_record_bytes",
    "segment_bytes",
    "preallocate",
    "on_damage",
)

CHOICES: dict[str, tuple[str, ...]] = {
    "durability": ("sync", "interval", "os"),
    "compression": ("none", "zstd"),
    "on_damage": ("continue", "stop"),
}

LIMITS: dict[str, tuple[int, int]] = {
    "partitions": (1, 10_000),
    "interval_ms": (1, 3_600_000),
    "max_record_bytes": (1, 32 << 20),
    "segment_bytes": (64 << 10, 2 << 30),
}
