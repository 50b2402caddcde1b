"""The events to measure with: lines of JSON, 100 bytes each, the same on every machine and in every run."""

from __future__ import annotations

from random import Random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_BYTES = 100
"""With the newline."""

KEYS = 1000
PAGES = ("cart", "home", "item", "login", "offers", "search", "orders", "help")
SEED = 20_240_229
FIRST_MS = 1_700_000_000_000
FIRST_NUMBER = 10_000_000
PIECE = 10_000


def pieces(count: int) -> Iterator[list[bytes]]:
    """``count`` events, one millisecond apart, without their newlines, in lists of up to 10,000."""
    bits = Random(SEED).getrandbits
    for start in range(0, count, PIECE):
        piece = []
        for number in range(start, min(start + PIECE, count)):
            some = bits(96)
            head = f'{{"ts":{FIRST_MS + number},"key":"user-{some % KEYS:04}","n":{FIRST_NUMBER + number}'
            body = f',"amount":{100 + some % 90_001 / 100:.2f},"page":"/{PAGES[some >> 29 & 7]}"'
            piece.append(f'{head}{body},"id":"{some >> 32:016x}'[: LINE_BYTES - 3].encode() + b'"}')
        yield piece


def values(count: int) -> list[bytes]:
    """``count`` events without their newlines."""
    return [event for piece in pieces(count) for event in piece]


def write_file(path: str, count: int) -> int:
    """Write ``count`` events as lines; returns the size of the file."""
    size = 0
    with open(path, "wb") as file:
        for piece in pieces(count):
            size += file.write(b"\n".join(piece) + b"\n")
    return size
