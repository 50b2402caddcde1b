"""``store.toml`` and ``topic.toml``: lines ``key = value``, the last one a CRC-32 of all before it.

The subset is what both ``tomllib`` and a plain split read: strings in double quotes without escapes, whole
numbers,
``true`` and ``false``. A real TOML parser would cost an append more than everything else together.
"""

from zlib import crc32 as crc32_small


class BadSettings(ValueError):
    """A settings file that does not parse, or whose checksum does not hold. ``changed``: only the checksum
    fails.
    """

    def __init__(self, why: str, changed: bool = False) -> None:
        super().__init__(why)
        self.changed = changed


def encode(values: "dict[str, str | int | bool]", comment: str = "") -> bytes:
    """The file for ``values``. Strings hold no quote, backslash or control character."""
    lines = [f"# {comment}\n"] if comment else []
    for key, value in values.items():
        if isinstance(value, bool):
            lines.append(f"{key} = {'true' if value else 'false'}\n")
        elif isinstance(value, int):
            lines.append(f"{key} = {value}\n")
        else:
            if not value.isprintable() or '"' in value or "\\" in value:
                raise BadSettings(f"{key} cannot hold {value!r}")
            lines.append(f'{key} = "{value}"\n')
    body = "".join(lines).encode()
    return body + f'crc32 = "{crc32_small(body):08x}"\n'.encode()


def decode(data: bytes, check: bool = True) -> "dict[str, str | int | bool]":
    """The values of a settings file.

    :param check: also require the checksum; False takes in a file that was changed by hand.
    :raises BadSettings: it does not parse, or (``changed``) the checksum does not hold.
    """
    at = data.rfind(b'crc32 = "')
    if check:
        if at < 0 or (at and data[at - 1 : at] != b"\n"):
            raise BadSettings("the checksum line is missing")
        if data[at:] != f'crc32 = "{crc32_small(data[:at]):08x}"\n'.encode():
            raise BadSettings("the checksum does not match", changed=True)
    values: "dict[str, str | int | bool]" = {}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadSettings("it is not UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key:
            raise BadSettings(f"line {number} is not 'key = value'")
        if key == "crc32":
            continue
        if len(value) > 1 and value[0] == value[-1] == '"':
            values[key] = value[1:-1]
        elif value in ("true", "false"):
            values[key] = value == "true"
        elif value.removeprefix("-").isdecimal() and value.isascii() and len(value) <= 20:
            values[key] = int(value)
        else:
            raise BadSettings(
                f"line {number}: {key} has a value that is neither a string, a number nor true/false"
            )
    return values
