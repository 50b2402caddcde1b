"""A process that tests start and kill: one way of using a store, as a program of its own.

``python support_worker.py MODE STORE TOPIC NAME [option=value…]``; what a mode does stands at its function.
Each acknowledgement leaves in one write of one line, ``PARTITION OFFSET NUMBER COUNT``, so that a pipe or a
file has all of them when the process is killed. Records say whose they are and which, see :func:`value_of`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count

import pspf
from pspf.model import Appended, TopicConfig
from pspf.store.store import Store
from pspf.store.writer import Ticket


def value_of(name: str, number: int) -> bytes:
    """The value of a writer's nth record: it can be told from any other, and whether it is whole."""
    return b"%s:%07d:%s" % (name.encode(), number, b"x" * (number * 37 % 180))


def whose(value: bytes) -> tuple[str, int]:
    """Name of the writer and number of the record."""
    name, number, _ = value.split(b":")
    return name.decode(), int(number)


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def acknowledge(row: Appended, number: int) -> None:
    tell(f"{row.partition} {row.first} {number} {row.last - row.first + 1}")


class Options:
    """``option=value`` words of the command line."""

    def __init__(self, words: list[str]) -> None:
        self._values = dict(word.split("=", 1) for word in words)

    def number(self, name: str, default: int | None = None) -> int | None:
        text = self._values.get(name)
        return default if text is None else int(text)

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def numbers(self) -> Iterator[int]:
        """The records to write: ``first``, and on for ever, or ``total`` of them, or for ``seconds``."""
        first = self.number("first", 0) or 0
        total = self.number("total")
        seconds = self.text("seconds")
        end = None if seconds is None else time.monotonic() + float(seconds)
        for number in count(first):
            if total is not None and number >= first + total:
                return
            if end is not None and time.monotonic() >= end:
                return
            yield number


def single(store: Store, topic: str, name: str, options: Options) -> None:
    """One record a call."""
    key = name if options.text("keyed") else None
    for number in options.numbers():
        row = store.append(
            topic, value_of(name, number), key=key, durability=options.text("durability"), create=False
        )
        acknowledge(row, number)


def batch(store: Store, topic: str, name: str, options: Options) -> None:
    """Up to 20 records a call."""
    numbers = options.numbers()
    for first in numbers:
        size = 1 + first * 7 % 20
        wanted = [first, *(number for _, number in zip(range(size - 1), numbers, strict=False))]
        rows = store.append_many(
            topic,
            [value_of(name, number) for number in wanted],
            durability=options.text("durability"),
            create=False,
        )
        assert len(rows) == 1
        acknowledge(rows[0], first)


def gather(store: Store, topic: str, name: str, options: Options) -> None:
    """A writer that gathers for a moment; each flush is an acknowledgement."""
    waiting: list[tuple[Ticket, int]] = []

    def tell_all() -> None:
        for gone, first in waiting:
            (row,) = gone.wait()
            acknowledge(row, first)
        waiting.clear()

    with store.writer(topic, linger_ms=3, durability=options.text("durability"), create=False) as writer:
        for number in options.numbers():
            ticket = writer.append(value_of(name, number))
            if not waiting or waiting[-1][0] is not ticket:
                waiting.append((ticket, number))
            if number % 25 == 24:
                tell_all()
        tell_all()


def sequence(store: Store, topic: str, name: str, options: Options) -> None:
    """One record a call as a producer, so that what is repeated is not appended again."""
    for number in options.numbers():
        row = store.append(
            topic, value_of(name, number), partition=0, producer=name, sequence=number, create=False
        )
        acknowledge(row, number)


def follow(store: Store, topic: str, name: str, options: Options) -> None:
    """Everything from the start on: ``PARTITION OFFSET VALUE`` a line."""
    for record in store.tail(topic, last=None, follow=True):
        assert record.value is not None
        tell(f"{record.partition} {record.offset} {record.value.decode()}")


def add_partitions(store: Store, topic: str, name: str, options: Options) -> None:
    """Raise the number of partitions, as soon as standard input ends."""
    sys.stdin.read()
    tell(str(store.add_partitions(topic, options.number("partitions") or 0)))


def create_topic(store: Store, topic: str, name: str, options: Options) -> None:
    """Make the topic, as soon as standard input ends."""
    sys.stdin.read()
    tell(store.create_topic(topic, TopicConfig(partitions=options.number("partitions") or 1)).topic_id)


MODES: dict[str, Callable[[Store, str, str, Options], None]] = {
    "single": single,
    "batch": batch,
    "gather": gather,
    "sequence": sequence,
    "follow": follow,
    "add_partitions": add_partitions,
    "create_topic": create_topic,
}


def create_store(path: str) -> None:
    """Open a store that is not there, as soon as standard input ends; says whether this process made it."""
    sys.stdin.read()
    with pspf.open(path) as store:
        tell(f"{store.store_id} {store.created}")


def main(mode: str, path: str, topic: str, name: str, *words: str) -> None:
    try:
        if mode == "create_store":
            create_store(path)
        else:
            with pspf.open(path, create=False) as store:
                MODES[mode](store, topic, name, Options(list(words)))
    except pspf.Error as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
