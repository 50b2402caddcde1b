"""How records are written: lines, keys, formats with kcat's letters, JSON envelopes.

:func:`renderer` looks at the options once and gives a function from a piece of records to bytes. Work is done
a column at a time, with builtins that loop in C.

Letters of ``--format``: ``%t`` topic, ``%p`` partition, ``%o`` offset, ``%k`` key, ``%K`` its length in
bytes, ``%s`` value, ``%S`` its length (of a null: -1), ``%h`` headers (``name=value``, with commas), ``%T``
timestamp in ms, ``%d`` the same as RFC 3339 in UTC, ``%%`` a percent sign. Escapes: ``\\n``, ``\\t``,
``\\r``, ``\\0``, ``\\\\``, ``\\xNN``.
"""

from pspf.errors import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pspf.store.emit import OutputFormat
    from pspf.store.merge import Mixed, Run

    Chunk = Run | Mixed
    Render = Callable[["Chunk"], bytes]

_LETTERS = "t p o k K s S h T d"
_HINT = "letters: %t %p %o %k %K %s %S %h %T %d %%, escapes: \\n \\t \\r \\0 \\\\ \\xNN"
_SIMPLE_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}
_TERMINAL: "dict[int, str]" = {}


def renderer(how: "OutputFormat", topic: str, escape: bool) -> "Render":
    """The function that writes pieces as ``how`` says.

    :param escape: control characters of the data become ``\\xNN``: the output is a terminal.
    :raises pspf.errors.Usage: a format that means nothing.
    """
    if how.json:
        return _json(topic, escape)
    if how.format is not None:
        return _format(how.format, topic, how.null, escape)
    null = how.null if how.null is not None else b""
    separator = how.separator
    key_separator = how.key_separator

    def values_of(chunk: "Chunk") -> "list[bytes]":
        return _shown(chunk.values(), null, escape)

    if key_separator is None:

        def plain(chunk: "Chunk") -> bytes:
            if not escape:
                region = chunk.region()
                if region is not None:  # lines: no newline in any value
                    return bytes(region).replace(b"\n", separator)
            return separator.join(values_of(chunk)) + separator

        return plain

    between = key_separator

    def keyed(chunk: "Chunk") -> bytes:
        pairs = zip(_shown(chunk.keys(), null, escape), values_of(chunk), strict=True)
        return separator.join(map(between.join, pairs)) + separator

    return keyed


# -- control characters


def _shown(column: "list[bytes | None]", null: bytes, escape: bool) -> "list[bytes]":
    """``column`` with nulls written as ``null``, and safe for a terminal if ``escape``."""
    if escape:
        return [null if piece is None else for_terminal(piece) for piece in column]
    if None in column:
        return [null if piece is None else piece for piece in column]
    return column  # type: ignore[return-value]


def for_terminal(data: bytes) -> bytes:
    """``data`` with everything that a terminal would obey, or could not show, as ``\\xNN``; tabs stay.

    C1 characters are among them: encoded as UTF-8 they are two bytes that look like text.
    """
    if data.isascii() and data.decode("ascii").isprintable():
        return data
    text = data.decode("utf-8", "backslashreplace")
    if not _TERMINAL:
        for code in (*range(32), *range(127, 160)):
            _TERMINAL[code] = "\\n" if code == 10 else "\\r" if code == 13 else f"\\x{code:02x}"
        del _TERMINAL[9]
    return text.translate(_TERMINAL).encode("utf-8", "backslashreplace")


# -- JSON


def _json(topic: str, escape: bool) -> "Render":
    from pspf.format.envelope import encode_columns

    def envelopes(chunk: "Chunk") -> bytes:
        lines = encode_columns(
            topic,
            chunk.partitions(),
            chunk.offsets(),
            chunk.timestamps(),
            chunk.keys(),
            chunk.values(),
            chunk.headers(),
        )
        return _json_for_terminal(lines) if escape else lines

    return envelopes


def _json_for_terminal(line: bytes) -> bytes:
    """JSON has the first 32 characters escaped already; the rest of what a terminal obeys follows here."""
    text = line.decode()
    return "".join(f"\\u{ord(c):04x}" if "\x7f" <= c <= "\x9f" else c for c in text).encode()


# -- formats


def _format(text: str, topic: str, null: "bytes | None", escape: bool) -> "Render":
    template, letters = _compile(text)
    shown_null = null if null is not None else b""
    header_null = null if null is not None else b"NULL"

    def column(letter: str, chunk: "Chunk") -> "Sequence[object]":
        if letter == "s":
            return _shown(chunk.values(), shown_null, escape)
        if letter == "k":
            return _shown(chunk.keys(), shown_null, escape)
        if letter == "S":
            return [-1 if value is None else len(value) for value in chunk.values()]
        if letter == "K":
            keys = chunk.keys()
            return [-1 if key is None else len(key) for key in keys]
        if letter == "t":
            return [topic.encode()] * chunk.count
        if letter == "p":
            return chunk.partitions()
        if letter == "o":
            return chunk.offsets()
        if letter == "T":
            return chunk.timestamps()
        if letter == "d":
            return [rfc3339(time) for time in chunk.timestamps()]
        return [_headers_text(pairs, header_null, escape) for pairs in chunk.headers()]

    def formatted(chunk: "Chunk") -> bytes:
        if not letters:
            return (template % ()) * chunk.count
        return b"".join(map(template.__mod__, zip(*[column(x, chunk) for x in letters], strict=True)))

    return formatted


def _compile(text: str) -> "tuple[bytes, list[str]]":
    """A template for ``%`` on bytes, and the letter for each of its places."""
    template: "list[bytes]" = []
    letters: "list[str]" = []
    at = 0
    while at < len(text):
        char = text[at]
        following = text[at + 1 : at + 2]
        at += 2
        if char == "%":
            if following == "%":
                template.append(b"%%")
            elif following and following in _LETTERS and following != " ":
                letters.append(following)
                template.append(b"%d" if following in "poSKT" else b"%b")
            else:
                raise Usage(f"--format {text!r}: %{following} is no letter of a format", hint=_HINT)
        elif char == "\\":
            simple = _SIMPLE_ESCAPES.get(following)
            if simple is not None:
                template.append(simple)
                continue
            digits = text[at : at + 2]
            if following != "x" or len(digits) < 2 or not all(d in "0123456789abcdefABCDEF" for d in digits):
                raise Usage(
                    f"--format {text!r}: \\{following}{digits if following == 'x' else ''} is no escape",
                    hint=_HINT,
                )
            at += 2
            template.append(bytes([int(digits, 16)]).replace(b"%", b"%%"))
        else:
            at -= 1
            template.append(char.encode("utf-8", "surrogateescape"))
    return b"".join(template), letters


def _headers_text(pairs: "Sequence[tuple[str, bytes | None]]", null: bytes, escape: bool) -> bytes:
    shown = []
    for name, content in pairs:
        raw = name.encode("utf-8", "surrogateescape")
        value = null if content is None else for_terminal(content) if escape else content
        shown.append((for_terminal(raw) if escape else raw) + b"=" + value)
    return b",".join(shown)


def rfc3339(timestamp_ms: int) -> bytes:
    """``2026-01-31T12:00:00.000Z``; milliseconds as they are where there is no such date."""
    from datetime import datetime, timedelta

    try:
        moment = datetime(1970, 1, 1) + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return b"%d" % timestamp_ms
    return f"{moment.isoformat(timespec='milliseconds')}Z".encode()
