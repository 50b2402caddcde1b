"""A mutational fuzzer for parsers of foreign bytes; the parsers are listed in :mod:`tests.test_fuzz`.

It begins with valid inputs, changes them a little, and in about half of the cases makes the checksums right
again, so that what lies behind a CRC is reached. Everything follows from a seed.

A check gets the bytes and whether they were sealed again. It calls the parser, passes on no exception but one
that is not documented, holds the result against what the bytes say by another way (mostly
:mod:`tests.independent_decoder`), and returns whether the input was accepted.
"""

import signal
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import NamedTuple
from unittest.mock import patch

ROOM_BYTES = 256 << 20
HANG_CPU_S = 60
CHUNK = 1_000

Check = Callable[[bytes, bool], bool]
Seal = Callable[[bytearray], object]
Fields = Sequence[tuple[int, int]]


class Parser(NamedTuple):
    """One parser under test.

    :param corpus: makes the valid inputs that everything begins with.
    :param seal: makes the checksums of a changed input right again, in place.
    :param fields: place and width of the integers worth setting to extremes.
    :param words: what is inserted now and then: what the grammar is made of.
    :param near: half of the changes are made within 160 bytes behind one of these places.
    """

    check: Check
    corpus: Callable[[], list[bytes]]
    seal: Seal | None = None
    fields: Fields = ()
    words: Sequence[bytes] = ()
    near: Sequence[int] = (0,)


class Hung(Exception):
    """A parser did not come back."""


class Tally:
    """What one parser was fed with, and how much of it passed."""

    def __init__(self) -> None:
        self.inputs = 0
        self.accepted = 0


@contextmanager
def little_memory() -> Iterator[None]:
    """More than ``ROOM_BYTES`` at once is a MemoryError, on Linux; elsewhere there is no limit."""
    if sys.platform != "linux":
        yield
        return
    import resource

    # Counted from what is in use now, which is not what is tested.
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def known_random(seed: int) -> Iterator[None]:
    """Ids that the engine draws follow from ``seed``, so that files come out the same again."""
    draw = Random(seed).randbytes
    with (
        patch("os.urandom", draw),
        patch("pspf.log.create.urandom", draw),
        patch("pspf.store.lifecycle.urandom", draw),
    ):
        yield


@contextmanager
def hang_guard() -> Iterator[Callable[[], None]]:
    """Calling it grants another ``HANG_CPU_S`` seconds of processor time; what uses them up is Hung.

    It is only there so that an endless loop ends. Not the wall clock: a busy machine is no hang.
    """

    def hung(*_: object) -> None:
        raise Hung(f"{CHUNK} inputs took more than {HANG_CPU_S} s of processor time")

    before = signal.signal(signal.SIGPROF, hung)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_PROF, HANG_CPU_S) and None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(name: str, parser: Parser, seed: int, count: int, tally: Tally) -> None:
    """Feed ``count`` inputs to one parser; AssertionError with all that a replay needs."""
    rng = Random(f"{seed} {name}")
    corpus = parser.corpus()
    check, seal = parser.check, parser.seal
    limit = 2 * max(map(len, corpus)) + 256 + 2 * max(map(len, parser.words), default=0)
    data, sealed = b"", False
    try:
        with little_memory(), hang_guard() as go_on:
            for number in range(count):
                if number % CHUNK == 0:
                    go_on()
                changed = mutated(rng, corpus, parser, limit)
                # Without checksums to make right, nothing is known of a changed input: as if sealed.
                sealed = seal is None or rng.random() < 0.5
                if seal is not None and sealed:
                    seal(changed)
                data = bytes(changed)
                tally.accepted += check(data, sealed)
                tally.inputs += 1
    except Exception as error:
        raise AssertionError(
            f"{name}: {type(error).__name__}: {error}\nseed {seed}, input {tally.inputs}; again with:"
            f" tests.test_fuzz.replay({name!r}, {shown(data)!r}, sealed={sealed})"
        ) from error


def shown(data: bytes) -> str:
    """An input in a failure: hexadecimal; of longer ones what zlib makes of it."""
    return data.hex() if len(data) < 1_000 else "z" + zlib.compress(data).hex()


def from_shown(text: str) -> bytes:
    """The inverse of :func:`shown`."""
    return zlib.decompress(bytes.fromhex(text[1:])) if text[:1] == "z" else bytes.fromhex(text)


# -- mutations

# Zero, extremes, the bits that mark nulls and shared columns, and characters that grammars turn on.
_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x40, 0x0A, 0x30, 0x2D)


def mutated(rng: Random, corpus: list[bytes], parser: Parser, limit: int) -> bytearray:
    """One of the corpus with some changes; now and then none."""
    random = rng.random
    fields, words, near = parser.fields, parser.words, parser.near
    data = bytearray(corpus[int(random() * len(corpus))])
    if random() < 0.03:
        return data
    while True:
        size = len(data)
        at = int(random() * size)
        if random() < 0.5:
            place = near[int(random() * len(near))]
            at = (place if place < size else 0) + int(random() * 160)
            at = min(at, max(size - 1, 0))
        kind = int(random() * 14)
        if kind <= 2 and size:
            data[at] ^= 1 << int(random() * 8)
        elif kind <= 4 and size:
            data[at] = _BYTES[int(random() * len(_BYTES))] if random() < 0.7 else int(random() * 256)
        elif kind <= 7 and (fields or size > 8):
            _set_integer(random, data, at, fields)
        elif kind == 8:
            del data[at if random() < 0.5 else size - int(random() * min(size, 9)) :]
        elif kind == 9:
            data += bytes(int(random() * 64)) if random() < 0.5 else rng.randbytes(1 + int(random() * 16))
        elif kind == 10:
            _move(random, data, at, size)
        elif kind == 11:
            other = corpus[int(random() * len(corpus))]
            cut = int(random() * (len(other) + 1))
            data[at:] = other[cut if random() < 0.5 else min(at, len(other)) :]
        else:
            piece = words[int(random() * len(words))] if words else rng.randbytes(1 + int(random() * 4))
            data[at : at + (len(piece) if random() < 0.4 else 0)] = piece
        del data[limit:]
        if random() < 0.45:
            return data


def _set_integer(random: Callable[[], float], data: bytearray, at: int, fields: Fields) -> None:
    """A little-endian integer becomes 0, 1, the greatest, the least with a sign, or a little more or less."""
    width = (1, 2, 4, 8)[int(random() * 4)]
    if fields and random() < 0.8:
        at, width = fields[int(random() * len(fields))]
    if at + width > len(data):
        return
    top = (1 << 8 * width) - 1
    before = int.from_bytes(data[at : at + width], "little")
    choice = int(random() * 9)
    if choice <= 4:
        value = (0, 1, top, top >> 1, (top >> 1) + 1)[choice]
    elif choice <= 7:
        value = (before + (1, -1, 1 << int(random() * 8 * width))[choice - 5]) & top
    else:
        value = int(random() * 300) & top
    data[at : at + width] = value.to_bytes(width, "little")


def _move(random: Callable[[], float], data: bytearray, at: int, size: int) -> None:
    """Double, swap, zero or take out a block."""
    length = 1 + int(random() * (64 if random() < 0.8 else size))
    block = data[at : at + length]
    to = int(random() * (size + 1))
    kind = int(random() * 4)
    if kind == 0:
        data[to:to] = block
    elif kind == 1:
        data[at : at + length] = bytes(len(block))
    elif kind == 2:
        del data[at : at + length]
    else:
        other = data[to : to + length]
        data[to : to + len(other)] = block[: len(other)]
        data[at : at + len(other)] = other[: len(block)]
