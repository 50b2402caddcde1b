"""Words of the command line that stand for something else: separators, headers, sizes."""

from pspf.errors import Usage
from pspf.model import MAX_HEADER_NAME

ESCAPES = {"t": b"\t", "n": b"\n", "r": b"\r", "0": b"\0", "\\": b"\\"}

NO_INPUT = 66

UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DECIMAL_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def separator_bytes(option: str, text: str) -> bytes:
    """The bytes that SEP ``text`` stands for.

    ``\\t``, ``\\n``, ``\\r``, ``\\0``, ``\\\\`` and ``\\xNN`` are bytes; everything else is itself.
    """
    if not text:
        raise Usage(f"{option} is empty", "a separator has at least one byte", hint=f"{option} '\\t'")
    out = b""
    at = 0
    while at < len(text):
        if text[at] != "\\":
            out += text[at].encode("utf-8", "surrogateescape")
            at += 1
            continue
        letter = text[at + 1 : at + 2]
        if letter in ESCAPES and letter:
            out += ESCAPES[letter]
            at += 2
        elif letter == "x" and is_hex(text[at + 2 : at + 4]):
            out += bytes((int(text[at + 2 : at + 4], 16),))
            at += 4
        else:
            raise Usage(
                f"{option} {text!r} is no separator",
                f"unknown escape \\{letter}",
                hint="the escapes are \\t \\n \\r \\0 \\\\ and \\xNN",
            )
    return out


def is_hex(text: str) -> bool:
    """Two hexadecimal digits."""
    return len(text) == 2 and all(c in "0123456789abcdefABCDEF" for c in text)


def headers_of(pairs: "list[str]") -> "tuple[tuple[str, bytes | None], ...]":
    """The headers that ``-H NAME=VALUE`` gives, in order."""
    out = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Usage(f"-H {pair!r} is no header", "it is NAME=VALUE", hint="-H source=web")
        length = len(name.encode("utf-8", "surrogateescape"))
        if length > MAX_HEADER_NAME:
            what = f"-H {name[:20]!r}… is no header"
            raise Usage(what, f"a name of {length} bytes; at most {MAX_HEADER_NAME}", hint="-H source=web")
        out.append((name, value.encode("utf-8", "surrogateescape")))
    return tuple(out)


def size_bytes(option: str, text: str) -> int:
    """Bytes in ``text``: a number, or one with KiB, MiB, GiB (K, M, G for short) or KB, MB, GB."""
    digits = text.rstrip("BKMGTIkmgtib").strip()
    unit = text[len(digits) :].strip().upper()
    factor = DECIMAL_UNITS.get(unit) or UNITS.get(unit.removesuffix("IB"))
    if factor is None or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise Usage(f"{option} {text!r} is no size", hint=f"{option} 64MiB (or a number of bytes)")
    return int(digits) * factor


def counted(number: int, noun: str) -> str:
    """``1 record``, ``2 records``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def demand_files(names: "list[str]") -> None:
    """Every input file is there and can be read, or nothing of any of them is appended."""
    from os import R_OK, access, path, stat

    from pspf.errors import Error, Usage, from_os

    for name in names:
        if name == "-":
            continue
        if not name:
            from pspf.cli.failure import empty

            raise empty("FILE", "pspf append TOPIC FILE…, or leave it out to read standard input")
        try:
            # Not opened: whoever writes to a named pipe would be told that its reader has gone.
            stat(name)
        except FileNotFoundError:
            missing = Error(f"cannot read {name}", "no such file")
            missing.exit_code = NO_INPUT
            raise missing from None
        except OSError as error:
            raise from_os(error, f"cannot read {name}") from None
        if path.isdir(name):
            raise Usage(f"cannot read {name}", "it is a directory")
        if not access(name, R_OK):
            raise from_os(PermissionError(13, "Permission denied", name), f"cannot read {name}")
