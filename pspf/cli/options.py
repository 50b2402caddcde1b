"""Options that several commands share, so that one name means one thing, and those of the fastest command.

A command's annotations are strings on the fast path. :mod:`pspf.cli.app` evaluates them among these names;
only it, and type checkers, import this module.
"""

from typing import Annotated, Literal

from typer import Argument, Option

COMMON = "Common options"
SELECT = "Which records"
OUTPUT = "Output"
INPUT = "Input"
RECORDS = "Records"
DELIVERY = "Delivery"
SETTINGS = "Settings"

Topic = Annotated[str, Argument(metavar="TOPIC", help="Name of the topic.")]
Topics = Annotated[
    list[str] | None, Argument(metavar="TOPIC", help="Names of topics; all of them when left out.")
]

Store = Annotated[
    str | None,
    Option(
        "-s",
        "--store",
        metavar="DIR",
        help="Store directory; otherwise PSPF_STORE, the configuration files, ~/.local/share/pspf.",
        rich_help_panel=COMMON,
    ),
]
Quiet = Annotated[
    bool, Option("-q", "--quiet", help="No messages on standard error except errors.", rich_help_panel=COMMON)
]
Verbose = Annotated[
    bool, Option("-v", "--verbose", help="Say more, also where nobody is watching.", rich_help_panel=COMMON)
]
Color = Annotated[
    Literal["auto", "always", "never"] | None,
    Option(
        "--color", metavar="WHEN", help="Colour: auto (on a terminal), always, never.", rich_help_panel=COMMON
    ),
]

Json = Annotated[bool, Option("--json", help="One JSON object a line.", rich_help_panel=OUTPUT)]
Local = Annotated[bool, Option("--local", help="Times in local time instead of UTC.", rich_help_panel=OUTPUT)]
DryRun = Annotated[bool, Option("--dry-run", help="Say what would be done, and do nothing.")]
Yes = Annotated[bool, Option("--yes", help="Do not ask.")]

Offsets = Annotated[
    list[str] | None,
    Option(
        "-o",
        "--offset",
        metavar="WHERE",
        help="N, N1:N2, :N2, N1:, +N (skip N), -N (the last N), start, end, @TIME, e@TIME (until); of each "
        "partition; may be repeated.",
        rich_help_panel=SELECT,
    ),
]
Partitions = Annotated[
    str | None,
    Option("-p", "--partition", metavar="LIST", help="Partitions: 0 or 0,2 or 1-3.", rich_help_panel=SELECT),
]
SelectKey = Annotated[
    str | None,
    Option(
        "--key",
        metavar="KEY",
        help="Records with this key only; reads the partitions that it belongs to, by the present or an "
        "earlier number of partitions, not one that append -p chose.",
        rich_help_panel=SELECT,
    ),
]
Count = Annotated[
    int | None,
    Option("-c", "--count", metavar="N", min=0, help="Stop after N records.", rich_help_panel=SELECT),
]
Since = Annotated[
    str | None,
    Option(
        "--since",
        metavar="TIME",
        help="From this time: 2024-05-01T12:00Z (local without a zone), epoch ms, 1h, 15m, today.",
        rich_help_panel=SELECT,
    ),
]
Until = Annotated[
    str | None,
    Option("--until", metavar="TIME", help="Up to, not including, this time.", rich_help_panel=SELECT),
]

Nul = Annotated[bool, Option("-0", "--nul", help="A NUL byte ends each record.", rich_help_panel=OUTPUT)]
Separator = Annotated[
    str | None,
    Option(
        "-D",
        "--separator",
        metavar="SEP",
        help="This ends each record; SEP takes \\t, \\n, \\0, \\xNN.",
        rich_help_panel=OUTPUT,
    ),
]
KeySeparator = Annotated[
    str | None,
    Option(
        "-K",
        "--key-separator",
        metavar="SEP",
        help="Print the key, then SEP, then the value.",
        rich_help_panel=OUTPUT,
    ),
]
Null = Annotated[
    str | None,
    Option("--null", metavar="TEXT", help="Print TEXT where there is no value.", rich_help_panel=OUTPUT),
]
Format = Annotated[
    str | None,
    Option(
        "--format",
        metavar="FMT",
        help="%t topic %p partition %o offset %k key %K its length %s value %S its length %h headers "
        "%T time in ms %d RFC 3339; no newline is added.",
        rich_help_panel=OUTPUT,
    ),
]
JsonRecords = Annotated[
    bool,
    Option("--json", help="One JSON object a record, as append --json reads it.", rich_help_panel=OUTPUT),
]
Raw = Annotated[
    bool, Option("--raw", help="Do not escape control bytes on a terminal.", rich_help_panel=OUTPUT)
]
ByPartition = Annotated[
    bool,
    Option(
        "--by-partition", help="One partition after the other instead of by time.", rich_help_panel=OUTPUT
    ),
]
SkipDamaged = Annotated[
    bool,
    Option(
        "--skip-damaged",
        help="Step over damaged ranges, name them, exit 65 at the end.",
        rich_help_panel=SELECT,
    ),
]

Durability = Annotated[
    Literal["sync", "interval", "os"] | None,
    Option(
        "--durability",
        metavar="LEVEL",
        help="When an append returns: sync (on disk), interval, os (survives a killed process).",
        rich_help_panel=SETTINGS,
    ),
]
Compression = Annotated[
    Literal["none", "zstd"] | None,
    Option("--compression", metavar="CODEC", help="Compress batches: none, zstd.", rich_help_panel=SETTINGS),
]
SegmentBytes = Annotated[
    str | None,
    Option(
        "--segment-bytes",
        metavar="SIZE",
        help="Size at which a new segment file begins: 64MiB.",
        rich_help_panel=SETTINGS,
    ),
]
MaxRecordBytes = Annotated[
    str | None,
    Option("--max-record-bytes", metavar="SIZE", help="Largest record: 16MiB.", rich_help_panel=SETTINGS),
]
Preallocate = Annotated[
    bool | None,
    Option(
        "--preallocate/--no-preallocate",
        help="Write zeros ahead of small durable appends, which makes them faster.",
        rich_help_panel=SETTINGS,
    ),
]
IntervalMs = Annotated[
    int | None,
    Option(
        "--interval-ms",
        metavar="N",
        min=0,
        help="Longest time unsynced with durability interval.",
        rich_help_panel=SETTINGS,
    ),
]
OnDamage = Annotated[
    Literal["continue", "stop"] | None,
    Option(
        "--on-damage",
        metavar="WHAT",
        help="A damaged end: continue in a new segment, or stop until repair.",
        rich_help_panel=SETTINGS,
    ),
]

# -- append

Files = Annotated[
    list[str] | None,
    Argument(metavar="FILE", help="Files in this order; - or none: standard input."),
]
InputNul = Annotated[bool, Option("-0", "--nul", help="Records end with a NUL byte.", rich_help_panel=INPUT)]
InputSeparator = Annotated[
    str | None,
    Option(
        "-D",
        "--separator",
        metavar="SEP",
        help="Records end with SEP, which takes \\t, \\n, \\0, \\xNN.",
        rich_help_panel=INPUT,
    ),
]
Whole = Annotated[
    bool,
    Option(
        "-w",
        "--whole",
        help="Each FILE, or all of standard input, is one record.",
        rich_help_panel=INPUT,
    ),
]
InputJson = Annotated[
    bool,
    Option(
        "--json",
        help="Lines are objects with key, value, headers, as cat --json prints them.",
        rich_help_panel=INPUT,
    ),
]
Preserve = Annotated[
    bool,
    Option(
        "--preserve",
        help="With --json: keep partition, offset and timestamp as well.",
        rich_help_panel=INPUT,
    ),
]
NullEmpty = Annotated[
    bool,
    Option("-Z", "--null-empty", help="An empty value is stored as no value.", rich_help_panel=INPUT),
]
SkipInvalid = Annotated[
    bool,
    Option(
        "--skip-invalid",
        help="Go on after malformed records, count them, exit 1.",
        rich_help_panel=INPUT,
    ),
]
InputKeySeparator = Annotated[
    str | None,
    Option(
        "-K",
        "--key-separator",
        metavar="SEP",
        help="The key ends at the first SEP.",
        rich_help_panel=RECORDS,
    ),
]
NoKeyOk = Annotated[
    bool,
    Option("--no-key-ok", help="With -K: a record without SEP has no key.", rich_help_panel=RECORDS),
]
WithKey = Annotated[
    str | None,
    Option("-k", "--key", metavar="KEY", help="Every record gets this key.", rich_help_panel=RECORDS),
]
Headers = Annotated[
    list[str] | None,
    Option(
        "-H",
        "--header",
        metavar="NAME=VALUE",
        help="Add a header; may be repeated.",
        rich_help_panel=RECORDS,
    ),
]
IntoPartition = Annotated[
    int | None,
    Option(
        "-p",
        "--partition",
        metavar="N",
        min=0,
        help="Into this partition, whatever the key.",
        rich_help_panel=RECORDS,
    ),
]
Timestamp = Annotated[
    str | None,
    Option(
        "--timestamp",
        metavar="TIME",
        help="Time of the records: RFC 3339 (local without a zone), epoch ms, or 1h: so long ago.",
        rich_help_panel=RECORDS,
    ),
]
TimestampField = Annotated[
    str | None,
    Option(
        "--timestamp-field",
        metavar=".PATH",
        help="Take the time from this field of JSON values: ms since 1970, or a string as for --timestamp.",
        rich_help_panel=RECORDS,
    ),
]
AppendDurability = Annotated[
    Literal["sync", "interval", "os"] | None,
    Option(
        "--durability",
        metavar="LEVEL",
        help="sync, interval or os, instead of the topic's.",
        rich_help_panel=DELIVERY,
    ),
]
Ack = Annotated[
    bool,
    Option(
        "--ack",
        help="Print a JSON line on standard output for each durable batch.",
        rich_help_panel=DELIVERY,
    ),
]
Producer = Annotated[
    str | None,
    Option(
        "--producer",
        metavar="NAME",
        help="Remember how far this input got; repeated, it goes on there. -p, -k, -K, -0, -D, -w and --json "
        "must stay as they were.",
        rich_help_panel=DELIVERY,
    ),
]
NewSource = Annotated[
    bool,
    Option("--new-source", help="With --producer: this is another input.", rich_help_panel=DELIVERY),
]
ExpectOffset = Annotated[
    int | None,
    Option(
        "--expect-offset",
        metavar="N",
        min=0,
        help="Append only if the next offset is N; of several partitions, -p names the one.",
        rich_help_panel=DELIVERY,
    ),
]
NoCreate = Annotated[
    bool,
    Option("--no-create", help="Fail if store or topic do not exist.", rich_help_panel=DELIVERY),
]
