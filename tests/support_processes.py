"""Starts processes of tests/support_worker.py and of the command, and holds a log against what they said."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

import pspf
from pspf.store.store import Store
from pspf.testing.ledger import Found, read_all
from tests.conftest import clean_environment, script
from tests.support_worker import value_of, whose

WORKER = Path(__file__).with_name("support_worker.py")
PATIENCE = 60
"""Seconds after which something that must happen is held not to happen. Never a measure."""


_started: list["Running"] = []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Processes that a failed test did not come to end. Import it where processes are started."""
    yield
    while _started:
        _started.pop().kill()


class Running:
    """A process, its name, and the files with what it printed."""

    def __init__(self, name: str, argv: Sequence[str], scratch: Path, stdin: int | None = None) -> None:
        self.name = name
        self.out = scratch / f"{name}.out"
        self.err = scratch / f"{name}.err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=out,
                stderr=err,
                env=clean_environment(scratch),
                cwd=scratch,
            )
        _started.append(self)

    def lines(self) -> list[str]:
        """Whole lines of standard output so far; one that a kill cut short is left out."""
        lines = self.out.read_bytes().split(b"\n")
        return [line.decode() for line in lines[:-1]]

    def errors(self) -> str:
        return self.err.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def killed(self) -> bool:
        """Whether SIGKILL ended it, and not something else before that."""
        return self.process.returncode == -9

    def wait_for_lines(self, number: int) -> list[str]:
        """Its lines, as soon as there are so many."""
        have = 0
        end = time.monotonic() + PATIENCE
        with open(self.out, "rb") as file:
            while have < number and time.monotonic() < end:
                ended = self.process.poll() is not None
                more = file.read()
                have += more.count(b"\n")
                if ended:
                    break
                if not more:
                    time.sleep(0.005)
        assert have >= number, (
            f"{self.name}: {have} of {number} lines, exit code {self.process.poll()}: {self.errors()}"
        )
        return self.lines()


def wait_until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Look at ``condition`` until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.005)


def start_worker(
    mode: str, store: Path, topic: str, name: str, *options: str, stdin: int | None = None
) -> Running:
    """A process of :mod:`tests.support_worker`; its output goes to files beside the store."""
    argv = [sys.executable, str(WORKER), mode, str(store), topic, name, *options]
    return Running(name, argv, store.parent, stdin)


def start_command(name: str, store: Path, *args: str, stdin: int | None = None) -> Running:
    """The command ``pspf``; its output goes to files beside the store."""
    return Running(name, [script(), "-s", str(store), *args], store.parent, stdin)


class Acknowledged:
    """Rows of one writer: partition, first offset, number of the first record, count."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[tuple[int, int, int, int]] = []

    @property
    def records(self) -> int:
        return sum(row[3] for row in self.rows)


def acknowledged(running: Running) -> Acknowledged:
    """What a worker, or ``pspf append --ack`` of one input, has said so far."""
    found = Acknowledged(running.name)
    number = 0
    for line in running.lines():
        if line.startswith("{"):
            row = json.loads(line)
            size = row["last"] - row["first"] + 1
            found.rows.append((row["partition"], row["first"], number, size))
            number += size
        else:
            partition, first, start, size = map(int, line.split())
            found.rows.append((partition, first, start, size))
    return found


class Feeder(threading.Thread):
    """Writes a writer's records as lines into a pipe, in pieces that end anywhere, until nobody reads."""

    def __init__(self, name: str, rng: random.Random, largest: int = 20_000) -> None:
        super().__init__(daemon=True)
        self.sizes = [rng.randrange(1, largest) for _ in range(50)]
        self.pauses = [rng.choice((0, 0, 0.001, 0.01)) for _ in range(50)]
        self.of = name
        self.number = 0
        read_end, self._write_end = os.pipe()
        self.read_end = read_end

    def started_for(self, start: Callable[[int], Running]) -> Running:
        """Start the process that reads, and feed it."""
        running = start(self.read_end)
        os.close(self.read_end)
        self.start()
        return running

    def run(self) -> None:
        data = b""
        with open(self._write_end, "wb", buffering=0) as pipe:
            try:
                while True:
                    for size, pause in zip(self.sizes, self.pauses, strict=True):
                        while len(data) < size:
                            data += value_of(self.of, self.number) + b"\n"
                            self.number += 1
                        pipe.write(data[:size])
                        data = data[size:]
                        time.sleep(pause)
            except OSError:
                pass  # the reader is gone


def check_records(
    found: Found, writers: Iterable[Acknowledged], keyed: Iterable[str] = (), settled: bool = True
) -> int:
    """Hold all records of a topic against what its writers were told; how many records there are.

    Acknowledged records are at their places; every record is whole and there once; those of one writer are in
    order, and none is left out before another, over all partitions.

    :param keyed: writers whose acknowledgements do not tell the numbers of the records.
    :param settled: a writer has opened every partition. A reader that may not write sees what was
        acknowledged, and of the rest that of some partitions only.
    """
    without_numbers = set(keyed)
    numbers: dict[str, set[int]] = {}
    for partition, records in found.items():
        last: dict[str, int] = {}
        for place, (offset, value) in enumerate(records):
            assert offset == place, f"partition {partition}: offset {offset} at place {place}"
            assert value is not None
            name, number = whose(value)
            assert value == value_of(name, number), f"torn: {value!r}"
            mine = numbers.setdefault(name, set())
            assert number not in mine, f"twice: {name}:{number}, again at {partition}/{offset}"
            mine.add(number)
            assert number > last.get(name, -1), f"out of order: {name}:{number} at {partition}/{offset}"
            last[name] = number
    if settled:
        for name, mine in numbers.items():
            missing = sorted(set(range(max(mine))) - mine)
            assert not missing, (
                f"lost: {name}: {len(missing)} before {max(mine)}, {missing[:5]}… (unacknowledged)"
            )
    for writer in writers:
        for partition, first, number, size in writer.rows:
            records = found[partition][first : first + size]
            assert len(records) == size, (
                f"lost: {writer.name} at {partition}/{first}, {len(records)} of {size}"
            )
            for step, (offset, value) in enumerate(records):
                assert value is not None
                expected = whose(value)[1] if writer.name in without_numbers else number + step
                assert value == value_of(writer.name, expected), (
                    f"{writer.name}:{expected} at {partition}/{offset}"
                )
    return sum(map(len, found.values()))


def check_follower(running: Running, found: Found) -> int:
    """What a follower printed is, per partition, the beginning of the log; how many records it saw."""
    at = dict.fromkeys(found, 0)
    lines = running.lines()
    for line in lines:
        partition, offset, value = line.split(" ", 2)
        records = found[int(partition)]
        assert int(offset) == at[int(partition)], (
            f"{running.name}: {line[:60]}, expected {at[int(partition)]}"
        )
        at[int(partition)] += 1
        assert int(offset) < len(records), f"{running.name} saw {line[:60]}, which is gone"
        assert records[int(offset)][1] == value.encode(), f"{running.name} saw {line[:60]}"
    return len(lines)


def check_store(store: Store, topic: str, partitions: int) -> Found:
    """Verify is clean; all records."""
    report = store.verify([topic])
    assert report.ok, report.findings
    return read_all(store, topic, partitions)


def append_to_each(store: Store, topic: str, partitions: int, number: int) -> Acknowledged:
    """One more record to each partition, as a writer of its own."""
    acked = Acknowledged(f"after{number}")
    for partition in range(partitions):
        row: pspf.Appended = store.append(topic, value_of(acked.name, partition), partition=partition)
        acked.rows.append((partition, row.first, partition, 1))
    return acked


def release(stdin: "IO[bytes] | int", *running: Running) -> list[int]:
    """Let processes go that wait for the end of their input; their exit codes."""
    if isinstance(stdin, int):
        os.close(stdin)
    else:
        stdin.close()
    return [each.wait() for each in running]
