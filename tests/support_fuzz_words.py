"""What people and programs hand to PSPF, as the fuzzer sees it: records, command lines, configuration."""

import contextlib
import io
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any
from zlib import crc32

from typer._click.exceptions import ClickException

from pspf import errors
from pspf.cli import app, selecting
from pspf.cli.fast import parse as fast_parse
from pspf.cli.generate import commands
from pspf.cli.mistakes import usage_error
from pspf.cli.text import headers_of, separator_bytes, size_bytes
from pspf.format import envelope
from pspf.format.batch import Encoded, parse_header
from pspf.format.columns import Columns
from pspf.format.segment import base_of
from pspf.log.reader import RawBatch
from pspf.model import Record, TopicConfig
from pspf.store import location, select
from pspf.store.emit import OutputFormat
from pspf.store.feed import Feed, FeedOptions
from pspf.store.formats import renderer
from pspf.store.intake import Intake
from pspf.store.looking import is_partition_name
from pspf.store.merge import Part, Run
from pspf.store.open import open_store
from pspf.store.topics import check_name
from pspf.store.verify import _quarantined
from pspf.store.verify_batch import index_base
from pspf.testing import SimDisk
from tests import support_fuzz_formats as formats
from tests.support_fuzz import Check, Parser


def text_of(data: bytes) -> str:
    """A word as a command line can hold it: any bytes but NUL."""
    return os.fsdecode(data.replace(b"\0", b"0"))


# -- input


def check_envelope(data: bytes, _: bool) -> bool:
    try:
        found = envelope.decode(data)
    except envelope.BadEnvelope:
        return False
    topic, partition, offset, stamp = found.topic or "", found.partition, found.offset, found.timestamp_ms
    assert partition is None or 0 <= partition < 1 << 31
    assert offset is None or 0 <= offset < 1 << 63
    assert stamp is None or -(1 << 63) <= stamp < 1 << 63
    again = Record(topic, partition or 0, offset or 0, stamp or 0, found.key, found.value, found.headers)
    twin = envelope.decode(envelope.encode(again))
    assert (twin.key, twin.value, twin.headers) == (found.key, found.value, found.headers)
    return True


def envelopes() -> list[bytes]:
    headers: list[tuple[str, bytes | None]] = [("a", b"b"), ("n", None), ("\udcff", b"\xff")]
    return [
        envelope.encode(Record("t", 0, 1, 1_700_000_000_000, b"k", b"v", headers)),
        envelope.encode(Record("t", 3, 1 << 62, -5, b"\xff\xfe", "ä\u2028".encode(), [])),
        envelope.encode(Record("t", 0, 0, 0, None, None, [("x", None)])),
        b'{"value":"a\\u0000b\\n","headers":[["h",null,"AA=="]]}',
    ]


JSON_WORDS = (
    b"null", b"true", b"[", b"]", b"{", b"}", b'"', b"\\ud800", b"\\u0000", b"1e400", b"-1", b"9" * 20,
    b"9" * 5000, b"[" * 2000, b'"value":', b'"value_base64":"', b'"headers":', b'"offset":', b'"partition":',
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"x":1', b"NaN", b"==", b",",
)  # fmt: skip


@cache
def intake_store() -> Any:
    """A store of topics for small records and for larger ones, to which nothing is ever written."""
    store = open_store("/s", disk=SimDisk())
    for name, limit in (("small", 200), ("large", 1 << 17)):
        store.create_topic(name, TopicConfig(partitions=3, max_record_bytes=limit))
    return store


class Caught(Feed):
    """A feed whose batches go nowhere."""

    def __init__(self, options: FeedOptions) -> None:
        store = intake_store()
        super().__init__(store, store.topic("large" if options.json else "small"), options, None, None)
        self.batches: list[Encoded] = []

    def put(self, partition: int, encoded: Encoded, check: Any = None) -> None:
        assert len(self.batches) < 100, "more than 100 batches for some lines"
        self.batches.append(encoded)
        self.report.records += encoded.count

    def settle(self) -> None:
        pass


WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"skip_invalid": True},
    {"separator": b"\0"},
    {"separator": b"ab"},
    {"key_separator": b":"},
    {"key_separator": b"::", "skip_invalid": True, "null_empty": True, "headers": (("h", b"x"),)},
    {"key_separator": b"\t", "key_optional": True, "key": b"k"},
    {"whole": True},
    {"timestamp_field": ".a.0"},
    {"timestamp_field": "t", "skip_invalid": True},
    {"json": True},
    {"json": True, "skip_invalid": True, "key": b"k", "null_empty": True},
    {"json": True, "preserve": True},
    {"json": True, "preserve": True, "skip_invalid": True, "timestamp_field": "a"},
)


def check_intake(data: bytes, _: bool) -> bool:
    """Lines, keys, envelopes and times as ``append`` takes them; the first byte says with which options."""
    options = FeedOptions(**WAYS[data[0] % len(WAYS)] if data else {})
    feed, rest = Caught(options), data[1:]
    consume: Callable[[bytes, bool, str], int] = feed._lines
    if not options.plain_lines():
        consume = Intake(feed, feed.topic).consume
    try:
        left = rest[0 if options.whole else consume(rest[: len(rest) // 2], False, "f") :]
        if left or options.whole:
            consume(left, True, "f")
    except (errors.Malformed, errors.NoSuchPartition):
        assert not options.skip_invalid or options.preserve
        return False
    values: list[bytes | None] = []
    for encoded in feed.batches:
        header = parse_header(encoded.seal(0, 0, 0, 0, 0, 0, 0, 0))
        if encoded.count:
            values += Columns(header, b"".join(encoded.parts)).values()
    assert len(values) == feed.report.records
    if not (options.json or options.key_separator or options.whole or options.timestamp_field):
        pieces = rest.split(options.separator)
        if not pieces[-1]:
            pieces.pop()
        # In no order: records without a key go to the partitions in turn.
        assert Counter(values) == Counter(piece for piece in pieces if len(piece) <= 200)
    return bool(values)


def intakes() -> list[bytes]:
    lines = [
        b"a:1\nb::2\n\nk\tv\nno key\r\n",
        b'{"a":["2026-01-31T12:00:00Z"],"t":5}\n{"a":[1e3],"t":"1h"}\n',
        b"x" * 250,
    ]
    longest = b'\x0a{"headers":[["' + b"x" * 65_535 + b'",null]],"value":""}\n'
    return [longest] + [
        bytes([way]) + one for way in range(len(WAYS)) for one in (*lines, b"".join(envelopes()))
    ]


# -- words of the command line


def word(parse: Callable[[str], Any], holds: Callable[[Any], bool], allowed: Any = errors.Usage) -> Check:
    """A check of a parser of one word: ``allowed`` errors, or a result that ``holds``."""

    def check(data: bytes, _: bool) -> bool:
        text = text_of(data)
        try:
            found = parse(text)
        except allowed:
            return False
        assert holds(found), f"{text!r}: {found!r}"
        return True

    return check


def right_bounds(bounds: list[tuple[str, str, int]]) -> bool:
    return all(b[0] in ("from", "to") and (b[1] == "time" or 0 <= b[2] < 1 << 63) for b in bounds)


class NoFileName(ValueError):
    """No file of ours has this name."""


def parse_names(text: str) -> tuple[int, int, bool, int]:
    """All that file names mean."""
    found = base_of(text), index_base(text), is_partition_name(text), _quarantined(text)[1]
    plain = [bool(re.fullmatch(f"[0-9]{{20}}[.]{end}", text, re.ASCII)) for end in ("log", "index")]
    assert [number >= 0 for number in found[:2]] == plain
    assert found[2] == bool(re.fullmatch("0|[1-9][0-9]{0,4}", text, re.ASCII))
    if not (any(plain) or found[2] or found[3] >= 0):
        raise NoFileName(text)
    return found


@cache
def shown_records() -> Run:
    batch = next(b for b in formats.record_batches() if parse_header(b).count == 3)
    header = parse_header(batch)
    raw = RawBatch(header, batch[:104], batch[104:], 4096, "s")
    return Run(Part(raw, raw.columns(), 0), 0, header.count)


def show(text: str) -> bytes:
    """Records printed by ``--format``; a format without letters and escapes is printed as it is."""
    run, how = shown_records(), OutputFormat(format=text, null=b"-")
    plain, escaped = (renderer(how, "t", escape)(run) for escape in (False, True))
    if not {"%", "\\"} & set(text):
        assert plain == escaped == text.encode("utf-8", "surrogateescape") * run.count
    return plain


CALLS: list[tuple[Any, str, dict[str, Any], dict[str, Any]]] = []


def carry(*call: Any) -> int:
    CALLS.append(call)
    return 0


@cache
def typer_group() -> Any:
    return app.build(carry)


def by_typer(words: list[str]) -> Any:
    """What typer makes of a command line: the call; a usage error, told as PSPF does, and help are None."""
    CALLS.clear()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            typer_group().main(args=words, prog_name="pspf", standalone_mode=False)
    except ClickException as error:
        assert isinstance(usage_error(error, typer_group()), errors.Usage)
        return None
    return (CALLS[0][0].__name__, *CALLS[0][1:]) if CALLS else None


def check_argv(data: bytes, _: bool) -> bool:
    """What the fast parser accepts is what typer would call; what it declines is left to typer."""
    words = [os.fsdecode(part) for part in data.split(b"\0")]
    call = fast_parse(list(words))
    if call is None:
        if crc32(data) % 8 == 0:
            by_typer(words)
        return False
    slow, fast = by_typer(words), (call[0].__name__, *call[1:])
    assert slow == fast, f"{words}: {fast}, but {slow} by typer"
    assert [type(v) for v in slow[3].values()] == [type(fast[3][name]) for name in slow[3]]
    return True


@cache
def command_lines() -> list[bytes]:
    lines = [shlex.split(line.partition("|")[0]) for e in commands() for line, _ in e.examples]
    return [b"\0".join(map(os.fsencode, words[1:])) for words in lines if words[:1] == ["pspf"]]


@cache
def command_words() -> list[bytes]:
    names = {name for e in commands() for o in e.options for name in (*o.names, *o.negative)}
    words = [os.fsencode(word) for word in (*sorted(names), *(w for e in commands() for w in e.path))]
    return [b"\0" + word for word in words] + [b"\0--\0", b"\0-", b"=", b"\0", b"\0" + b"9" * 19, b"\xd9\xa3"]


def check_configuration(data: bytes, _: bool) -> bool:
    """A configuration file; the store that it names is looked for."""
    module = vars(location)
    module["open"] = lambda *_: io.BytesIO(data)
    try:
        loaded = [("/etc/pspf/config.toml", location._load("/etc/pspf/config.toml"))]
        values = [location._setting(name, None, loaded, location._raise)[0] for name in location.KNOWN]
    except errors.BadConfig:
        return False
    finally:
        del module["open"]
    for value in values:
        with contextlib.suppress(OSError):
            os.lstat(value)
    return True


TIMES = b"2026-01-31T12:00:00.5+01:00 2026-01-31 1700000000000 -5 15m 1h30m 2w today yesterday now".split()
OFFSETS = b"5 +5 -5 5:9 :9 9: start:end @1h e@2026-01-31 s@5 stored beginning".split()
NUMBER_WORDS = (
    b"9" * 19,
    b"9" * 5000,
    b"-",
    b"+",
    b":",
    b",",
    b"\xd9\xa3",
    b"_",
    b" ",
    b"\xff",
    b"ms",
    b"w",
    b"T",
    b"Z",
)


def right_name(name: str) -> bool:
    return bool(re.fullmatch("[A-Za-z0-9._-]{1,200}", name)) and name not in (".", "..")


CONFIGURATION_WORDS = (
    b"[",
    b"[" * 3000,
    b"9" * 5000,
    b"\\u0000",
    b"'",
    b'"""',
    b"1979-05-27",
    b"=",
    b"{",
    b"a.b = 1\n",
)
INPUT_WORDS = (b"\n", b":", b"\t", b"ab", b"\0", b"x" * 201, *JSON_WORDS)

FOREIGN: dict[str, Parser] = {
    "envelope": Parser(check_envelope, envelopes, words=JSON_WORDS),
    "input": Parser(check_intake, intakes, words=INPUT_WORDS),
    "argv": Parser(check_argv, command_lines, words=command_words()),
    "configuration": Parser(
        check_configuration,
        lambda: [b'store = "/srv/store"\ncolor = "never"\n', b"# nothing\n"],
        words=CONFIGURATION_WORDS,
    ),
    "offsets": Parser(
        word(
            lambda text: selecting.selection_of([text], None, None, None, None, None, False, False).ranges,
            right_bounds,
        ),
        lambda: OFFSETS,
        words=NUMBER_WORDS,
    ),
    "partitions": Parser(
        word(select.parse_partitions, lambda n: n == sorted(set(n)) and 0 <= n[0] <= n[-1] < 10_000),
        lambda: [b"0", b"0,2", b"1-3,7-9999"],
        words=NUMBER_WORDS,
    ),
    "times": Parser(
        word(select.parse_time, lambda ms: -(1 << 63) <= ms < 1 << 63), lambda: TIMES, words=NUMBER_WORDS
    ),
    "number of records": Parser(
        word(lambda text: selecting.how_many(text, False), lambda found: found.count(None) == 1),
        lambda: [b"5", b"+5", b"-5", b"1000000"],
        words=NUMBER_WORDS,
    ),
    "sizes": Parser(
        word(lambda text: size_bytes("-x", text), lambda size: 0 <= size < 10**18 << 40),
        lambda: [b"10MiB", b"5 kB", b"7", b"1T"],
        words=NUMBER_WORDS,
    ),
    "separators": Parser(
        word(lambda text: separator_bytes("-D", text), lambda found: len(found) >= 1),
        lambda: [b"\\t", b"\\x0a:", b"::", b"\\\\"],
        words=(b"\\", b"\\x", b"\xff"),
    ),
    "header option": Parser(
        word(lambda text: headers_of([text]), lambda found: len(found) == 1 and bool(found[0][0])),
        lambda: [b"a=b", b"name==", b"\xff=x"],
    ),
    "output format": Parser(
        word(show, lambda out: len(out) < 1 << 16),
        lambda: [b"%t/%p %o %T %d\\t%k=%K %s:%S %h%%\\n", b"plain", b"\\x41\\0"],
        words=(b"%", b"\\", b"%d", b"\xff"),
    ),
    "topic name": Parser(
        word(check_name, right_name, errors.BadName), lambda: [b"orders", b"a.b-c_D9", b"x" * 200]
    ),
    "file name": Parser(
        word(parse_names, lambda found: True, NoFileName),
        lambda: [b"%020d.log" % 5, b"%020d.index" % 0, b"9999", b"a.b.0.%020d.4096.1" % 7],
        words=(b".", b"\xd9\xa3"),
    ),
}
