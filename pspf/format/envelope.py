"""The JSON envelope: one record as one line of JSON, exactly, and back.

An envelope has seven keys, always all of them, in this order: ``topic``, ``partition``, ``offset``,
``timestamp`` (integer, ms since the epoch), ``key``, ``value``, ``headers``. Key and value are strings or
null; bytes that are not UTF-8 stand in ``key_base64`` or ``value_base64`` instead of ``key`` or ``value``.
Headers are a list of ``[name, value]``, or ``[name, null, base64]`` where the value is not UTF-8; ``[name,
null]`` is a null. A header name that is not UTF-8 has its bytes as lone surrogates (``\\udc80`` to
``\\udcff``), as Python writes them.

Reading takes the same keys in any order and any subset of them that has a value; one that it does not know is
an error, never ignored: a misspelt ``header`` would be lost in silence.
"""

from binascii import Error as BadBase64
from binascii import a2b_base64, b2a_base64

import orjson

from pspf.model import MAX_HEADER_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pspf.model import Record

KEYS = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")
_KNOWN = frozenset((*KEYS, "key_base64", "value_base64"))
_NEWLINE = orjson.OPT_APPEND_NEWLINE


class BadEnvelope(ValueError):
    """A line that is no envelope. Its text says what is wrong with it, and names the key."""


class Envelope:
    """What a line said: None for ``topic``, ``partition``, ``offset``, ``timestamp_ms`` where it did not."""

    __slots__ = ("headers", "key", "offset", "partition", "timestamp_ms", "topic", "value")

    def __init__(self) -> None:
        self.topic: "str | None" = None
        self.partition: "int | None" = None
        self.offset: "int | None" = None
        self.timestamp_ms: "int | None" = None
        self.key: "bytes | None" = None
        self.value: "bytes | None" = None
        self.headers: "list[tuple[str, bytes | None]]" = []


def encode(record: "Record") -> bytes:
    """The envelope of ``record`` and a newline."""
    return encode_fields(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp_ms,
        record.key,
        record.value,
        record.headers,
    )


def encode_fields(
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: "bytes | None",
    value: "bytes | None",
    headers: "Sequence[tuple[str, bytes | None]]" = (),
) -> bytes:
    """As :func:`encode`, without the record object."""
    envelope: "dict[str, object]" = {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": timestamp_ms,
    }
    try:
        envelope["key"] = key if key is None else key.decode()
    except UnicodeDecodeError:
        envelope["key_base64"] = _base64(key)  # type: ignore[arg-type]
    try:
        envelope["value"] = value if value is None else value.decode()
    except UnicodeDecodeError:
        envelope["value_base64"] = _base64(value)  # type: ignore[arg-type]
    envelope["headers"] = [_header(name, content) for name, content in headers] if headers else []
    try:
        return orjson.dumps(envelope, option=_NEWLINE)
    except TypeError:  # a header name with lone surrogates, which orjson refuses
        import json

        return json.dumps(envelope, separators=(",", ":")).encode() + b"\n"


def encode_columns(
    topic: str,
    partitions: "Sequence[int]",
    offsets: "Sequence[int]",
    timestamps_ms: "Sequence[int]",
    keys: "Sequence[bytes | None]",
    values: "Sequence[bytes | None]",
    headers: "Sequence[Sequence[tuple[str, bytes | None]]]",
) -> bytes:
    """The lines of many records: byte for byte what :func:`encode_fields` gives for each of them."""
    if values and None not in values and not any(headers) and (None not in keys or not any(map(_some, keys))):
        try:
            columns: "list[Sequence[object]]" = [partitions, offsets, timestamps_ms]
            key = b"null"
            if keys[0] is not None:
                key = b'"%b"'
                columns.append(_strings(keys))  # type: ignore[arg-type]
            columns.append(_strings(values))  # type: ignore[arg-type]
        except UnicodeDecodeError:
            pass
        else:
            template = (
                b'{"topic":%b,"partition":%%d,"offset":%%d,"timestamp":%%d,'
                b'"key":%b,"value":"%%b","headers":[]}\n'
            )
            name = orjson.dumps(topic).replace(b"%", b"%%")
            return b"".join(map((template % (name, key)).__mod__, zip(*columns, strict=True)))
    rows = zip(partitions, offsets, timestamps_ms, keys, values, headers, strict=True)
    return b"".join([encode_fields(topic, *row) for row in rows])


def _some(key: "bytes | None") -> bool:
    return key is not None


def _strings(column: "Sequence[bytes]") -> "list[bytes]":
    """Each as the inside of a JSON string, in one call: no JSON string contains quote, comma, quote."""
    return orjson.dumps([piece.decode() for piece in column])[2:-2].split(b'","')


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode("ascii")


def _header(name: str, content: "bytes | None") -> "list[str | None]":
    if content is None:
        return [name, None]
    try:
        return [name, content.decode()]
    except UnicodeDecodeError:
        return [name, None, _base64(content)]


def decode(line: "bytes | str") -> Envelope:
    """What ``line`` says.

    :raises BadEnvelope: it is no JSON object, has a key that is not known, a value of the wrong type, or
        neither ``value`` nor ``value_base64``.
    """
    fields = _parse(line)
    if type(fields) is not dict:
        raise BadEnvelope(f"not a JSON object but {_kind(fields)}")
    if not fields.keys() <= _KNOWN:
        name = next(name for name in fields if name not in _KNOWN)
        raise BadEnvelope(f"unknown key {name!r}")
    envelope = Envelope()
    if "value" not in fields and "value_base64" not in fields:
        raise BadEnvelope("neither 'value' nor 'value_base64'")
    envelope.value = _bytes_of(fields, "value")
    envelope.key = _bytes_of(fields, "key")
    headers = fields.get("headers")
    if headers:
        envelope.headers = _headers_of(headers)
    elif headers is not None and type(headers) is not list:
        raise BadEnvelope(f"'headers' is a list of [name, value], not {_kind(headers)}")
    topic = fields.get("topic")
    if topic is not None and type(topic) is not str:
        raise BadEnvelope(f"'topic' is a string, not {_kind(topic)}")
    envelope.topic = topic
    envelope.partition = _integer(fields, "partition", 0, (1 << 31) - 1)
    envelope.offset = _integer(fields, "offset", 0, (1 << 63) - 1)
    envelope.timestamp_ms = _integer(fields, "timestamp", -(1 << 63), (1 << 63) - 1)
    return envelope


def _parse(line: "bytes | str") -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        why = str(error)
    text = line if isinstance(line, str) else line.decode("utf-8", "replace")
    if "\\ud" in text.lower():  # lone surrogates, of a header name
        import json

        try:
            return json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            pass
    raise BadEnvelope(f"not JSON: {why[:1].lower() + why[1:]}")


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _kind(value: object) -> str:
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return kinds.get(type(value), "something else")


def _bytes_of(fields: "dict[str, object]", name: str) -> "bytes | None":
    encoded_name = name + "_base64"
    text = fields.get(name)
    if encoded_name in fields:
        if name in fields:
            raise BadEnvelope(f"both '{name}' and '{encoded_name}'")
        return _from_base64(fields[encoded_name], f"'{encoded_name}'")
    if text is None:
        return None
    if type(text) is not str:
        raise BadEnvelope(f"'{name}' is a string or null, not {_kind(text)}")
    return _utf8(text, f"'{name}'")


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadEnvelope(f"{what} has a lone surrogate, which is no text") from None


def _from_base64(text: object, what: str) -> bytes:
    if type(text) is not str:
        raise BadEnvelope(f"{what} is a string, not {_kind(text)}")
    try:
        return a2b_base64(text, strict_mode=True) if text else b""
    except (BadBase64, ValueError):
        raise BadEnvelope(f"{what} is no base64") from None


def _headers_of(headers: object) -> "list[tuple[str, bytes | None]]":
    if type(headers) is not list:
        raise BadEnvelope(f"'headers' is a list of [name, value], not {_kind(headers)}")
    pairs: "list[tuple[str, bytes | None]]" = []
    for number, entry in enumerate(headers):
        what = f"header {number}"
        if type(entry) is not list or not 2 <= len(entry) <= 3 or type(entry[0]) is not str:
            raise BadEnvelope(f"{what} is [name, value] or [name, null, base64], nothing else")
        name, content = entry[0], entry[1]
        try:
            length = len(name.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise BadEnvelope(f"{what}: its name has a surrogate that stands for no byte") from None
        if length > MAX_HEADER_NAME:
            raise BadEnvelope(f"{what} has a name of {length} bytes; at most {MAX_HEADER_NAME}")
        if len(entry) == 3:
            if content is not None:
                raise BadEnvelope(f"{what} has a value and base64")
            pairs.append((name, _from_base64(entry[2], f"the base64 of {what}")))
        elif content is None:
            pairs.append((name, None))
        elif type(content) is str:
            pairs.append((name, _utf8(content, what)))
        else:
            raise BadEnvelope(f"the value of {what} is a string or null, not {_kind(content)}")
    return pairs


def _integer(fields: "dict[str, object]", name: str, least: int, most: int) -> "int | None":
    number = fields.get(name)
    if number is None:
        return None
    if type(number) is not int:
        raise BadEnvelope(f"'{name}' is an integer, not {number if type(number) is float else _kind(number)}")
    if not least <= number <= most:
        raise BadEnvelope(f"'{name}' is {number}, outside of {least} to {most}")
    return number
