"""``pspf topic``: make, describe, change, rename and delete topics."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any

    import typer

    from pspf.cli.main import Invocation
    from pspf.cli.options import (
        Compression,
        DryRun,
        Durability,
        IntervalMs,
        Json,
        Local,
        MaxRecordBytes,
        OnDamage,
        Preallocate,
        SegmentBytes,
        Topic,
        Yes,
    )
    from pspf.store.store import Store

COMMANDS = ("create", "describe", "alter", "rename", "delete", "add-partitions")
REPORTS = {
    "create": None,
    "describe": "topic",
    "alter": None,
    "rename": None,
    "delete": None,
    "add-partitions": None,
}
EXIT_CODES = {
    "create": (0, 2, 73, 74, 77, 78),
    "describe": (0, 2, 65, 66, 74, 77, 78),
    "alter": (0, 2, 65, 66, 74, 77, 78),
    "rename": (0, 2, 66, 73, 74, 77, 78),
    "delete": (0, 1, 2, 66, 74, 77, 78, 141),
    "add-partitions": (0, 2, 66, 74, 77, 78),
}
EXAMPLES = {
    "create": (
        ("pspf topic create -n 8 orders", "eight partitions; records with one key stay together"),
        (
            "pspf topic create --durability os --compression zstd metrics",
            "fast and small, for what may be lost",
        ),
    ),
    "describe": (("pspf topic describe orders", "settings, and offsets of each partition"),),
    "alter": (
        ("pspf topic alter orders --segment-bytes 256MiB", "holds for segments that begin from now on"),
        ("pspf topic alter orders --from topic.toml", "take in a settings file that was changed by hand"),
    ),
    "rename": (("pspf topic rename orders orders-2024", "offsets stay"),),
    "delete": (
        ("pspf topic delete --dry-run orders", "what would go"),
        ("pspf topic delete --yes orders", "without asking, in a script"),
    ),
    "add-partitions": (("pspf topic add-partitions -n 16 orders", "sixteen in all"),),
}
PARTITION_COLUMNS = (
    ("partition", "PARTITION", "number"),
    ("start", "START", "number"),
    ("end", "END", "number"),
    ("records", "RECORDS", "number"),
    ("bytes", "BYTES", "size"),
    ("segments", "SEGMENTS", "number"),
    ("first_ms", "FIRST", "time"),
    ("last_ms", "LAST", "time"),
    ("state", "STATE", "text"),
)


def create(
    cli: Invocation,
    topic: Topic,
    partitions: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--partitions",
            metavar="N",
            min=0,
            help="Number of partitions (1).",
            rich_help_panel="Settings",
        ),
    ] = None,
    durability: Durability = None,
    compression: Compression = None,
    segment_bytes: SegmentBytes = None,
    max_record_bytes: MaxRecordBytes = None,
    preallocate: Preallocate = None,
    interval_ms: IntervalMs = None,
    on_damage: OnDamage = None,
) -> None:
    """Make a topic.

    What is not said: 1 partition, durability sync, no compression, segments of 64 MiB, records of up to
    16 MiB. append makes a topic with these defaults by itself.
    """
    from pspf.model import TopicConfig

    settings = given(
        durability,
        compression,
        segment_bytes,
        max_record_bytes,
        preallocate,
        interval_ms,
        on_damage,
        partitions,
    )
    cli.open(create=True).create_topic(topic, TopicConfig(**settings))
    cli.note_created(topic)


def describe(cli: Invocation, topic: Topic, json: Json = False, local: Local = False) -> None:
    """Show a topic's settings and partitions.

    Of each partition: offsets, records, bytes, times and state. END is the offset that the next record gets.
    RECORDS counts offsets, gaps included; FIRST and LAST are times of the first and the last batch.
    """
    from pspf.cli.output import json_lines, table, time_text

    info = cli.open().describe(topic)
    rows = [
        {key: getattr(partition, key) for key, _, _ in PARTITION_COLUMNS} for partition in info.partitions
    ]
    settings = {name: value for name, value in info.config.items() if name != "partitions"}
    if json:
        facts = {"topic": info.name, "topic_id": info.topic_id, "created_ms": info.created_ms}
        json_lines([{**facts, "settings": settings, "partitions": rows}])
        return
    print(f"topic: {info.name}")
    print(f"id: {info.topic_id}")
    print(f"created: {time_text(info.created_ms, local)}")
    for name, value in settings.items():
        print(f"{name}: {str(value).lower() if isinstance(value, bool) else value}")
    print(f"partitions: {info.config.partitions}")
    table(cli, PARTITION_COLUMNS, rows, local)


def alter(
    cli: Invocation,
    topic: Topic,
    durability: Durability = None,
    compression: Compression = None,
    segment_bytes: SegmentBytes = None,
    max_record_bytes: MaxRecordBytes = None,
    preallocate: Preallocate = None,
    interval_ms: IntervalMs = None,
    on_damage: OnDamage = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take in a topic.toml that was changed by hand.",
            rich_help_panel="Settings",
        ),
    ] = None,
) -> None:
    """Change settings of a topic; what is not named stays as it is.

    The number of partitions is changed by add-partitions.
    """
    from pspf.errors import Usage

    settings = given(
        durability, compression, segment_bytes, max_record_bytes, preallocate, interval_ms, on_damage
    )
    if from_ == "":
        from pspf.cli.failure import empty

        raise empty("--from", f"pspf topic alter {topic} --from FILE")
    if from_ is not None:
        if settings:
            raise Usage(
                "--from and single settings exclude each other", hint=f"pspf topic alter {topic} --from FILE"
            )
        cli.open().alter_topic_from(topic, from_)
        cli.note(f"took in {from_} as the settings of {topic}")
        return
    if not settings:
        raise Usage("no setting to change was named", hint=f"pspf topic alter {topic} --durability interval")
    store = cli.open()
    store.alter_topic(topic, **settings)
    cli.note(f"changed {', '.join(settings)} of {topic}")


def rename(
    cli: Invocation,
    topic: Topic,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
) -> None:
    """Give a topic another name.

    Its records, offsets and settings stay.
    """
    cli.open().rename_topic(topic, new)
    cli.note(f"renamed {topic} to {new}")


def delete(cli: Invocation, topic: Topic, dry_run: DryRun = False, yes: Yes = False) -> int:
    """Delete a topic with all its records.

    Asks on a terminal; elsewhere --yes is needed. Whoever follows the topic is told, and ends with exit 66.
    """
    from pspf.cli.confirm import confirmed

    store = cli.open()
    what = how_much(store, topic)
    if dry_run:
        print(f"would delete topic {topic}: {what}")
        return 0
    if not confirmed(f"delete topic {topic}", what, yes, f"pspf topic delete --yes {topic}"):
        return 1
    store.delete_topic(topic)
    cli.note(f"deleted topic {topic}: {what}")
    return 0


def how_much(store: Store, topic: str) -> str:
    """What a topic holds; of a damaged one, which can be deleted too, why that cannot be told."""
    from pspf.cli.text import counted
    from pspf.errors import Error, NoSuchTopic, Usage

    try:
        stats = store.stats(topic)
    except (NoSuchTopic, Usage):
        raise
    except Error as error:
        return f"cannot tell how much: {error}"
    records = counted(stats.records, "record")  # gaps are counted: at most so many
    return f"up to {records}, {counted(stats.bytes, 'byte')}, {counted(stats.partitions, 'partition')}"


def add_partitions(
    cli: Invocation,
    topic: Topic,
    partitions: Annotated[
        int, typer.Option("-n", "--partitions", metavar="N", min=0, help="How many there shall be in all.")
    ],
) -> None:
    """Raise a topic's number of partitions.

    Records that are there stay where they are, so a key's new records may go to another partition than its
    old ones.
    """
    from pspf.cli.text import counted

    given(partitions=partitions)
    total = cli.open().add_partitions(topic, partitions)
    cli.note(f"{topic} has {counted(total, 'partition')}")


def given(
    durability: str | None = None,
    compression: str | None = None,
    segment_bytes: str | None = None,
    max_record_bytes: str | None = None,
    preallocate: bool | None = None,
    interval_ms: int | None = None,
    on_damage: str | None = None,
    partitions: int | None = None,
) -> dict[str, Any]:
    """The settings that were named, sizes as bytes, each within its limits."""
    from pspf.cli.failure import spelling
    from pspf.cli.text import size_bytes
    from pspf.errors import Usage
    from pspf.model import LIMITS

    settings = {
        "durability": durability,
        "compression": compression,
        "segment_bytes": None if segment_bytes is None else size_bytes("--segment-bytes", segment_bytes),
        "max_record_bytes": None
        if max_record_bytes is None
        else size_bytes("--max-record-bytes", max_record_bytes),
        "preallocate": preallocate,
        "interval_ms": interval_ms,
        "on_damage": on_damage,
        "partitions": partitions,
    }
    named = {name: value for name, value in settings.items() if value is not None}
    for name, (low, high) in LIMITS.items():
        value = named.get(name, low)
        if isinstance(value, int) and not low <= value <= high:
            option = spelling(name)
            why = f"{value} is not between {low} and {high}"
            raise Usage(f"bad value for {option}", why, "", f"{option} {low}")
    return named
