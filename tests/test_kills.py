"""Processes killed with SIGKILL at random instants while they write, follow and roll; then all is counted.

A seed decides what each round starts and when it kills, but not how far the processes came by then. The seed
of a run that failed is in its message, and ``PSPF_KILL_SEED`` sets it.
"""

import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pspf
from pspf.model import TopicConfig
from pspf.testing.ledger import Found, read_all
from tests.support_figures import Figure
from tests.support_processes import (
    Acknowledged,
    Feeder,
    Running,
    acknowledged,
    append_to_each,
    check_follower,
    check_records,
    check_store,
    nothing_left_running,  # noqa: F401
    start_command,
    start_worker,
)
from tests.support_worker import value_of

if TYPE_CHECKING:
    from tests.soak import Slice, Work

FORMAT = r"%p %o %s\n"
ENOUGH_RECORDS = 15_000
WRITERS = ("single", "single", "batch", "gather", "pipe", "pipe_keyed", "sequence", "source")


class Rounds:
    """Kill rounds over topics of one store; each topic goes through several of them."""

    def __init__(self, store_dir: Path, seed: int) -> None:
        self.store_dir = store_dir
        self.rng = random.Random(seed)
        self.number = 0
        self.topic = ""
        self.partitions = 0
        self.acked: list[Acknowledged] = []
        self.keyed: list[str] = []
        self.total_acked = 0
        self.total_seen = 0
        self.kills = 0
        self.records = 0
        self.story = ""
        self.sources: list[tuple[str, Path, int]] = []

    def new_topic(self) -> None:
        rng = self.rng
        self.topic = f"t{self.number}"
        self.partitions = rng.choice((1, 1, 3))
        self.acked, self.keyed, self.sources = [], [], []
        config = TopicConfig(
            partitions=self.partitions,
            segment_bytes=65536,
            durability=rng.choice(("sync", "sync", "sync", "interval", "os")),
            preallocate=rng.random() < 0.7,
            compression=rng.choice(("none", "none", "zstd")),
        )
        with pspf.open(str(self.store_dir)) as store:
            store.create_topic(self.topic, config)

    def run(self) -> None:
        """One round: start, kill at some instant, open again, check, append."""
        rng = self.rng
        self.number += 1
        if not self.topic or self.records > ENOUGH_RECORDS or rng.random() < 0.25:
            self.new_topic()
        kinds = rng.sample(WRITERS, rng.choice((1, 2, 2, 3)))
        self.story = ", ".join(kinds)
        writers = [self.start(kind, f"r{self.number}w{i}") for i, kind in enumerate(kinds)]
        followers = [self.start_follower(i) for i in range(rng.choice((0, 1, 1)))]
        everyone = [*writers, *followers]
        time.sleep(rng.choice((rng.uniform(0, 0.1), rng.uniform(0.05, 0.35))))
        # The first wave leaves some alive: they have to go on beside what the dead left half-done.
        first_wave = rng.sample(everyone, rng.randint(1, len(everyone)))
        for running in first_wave:
            running.kill()
        if len(first_wave) < len(everyone):
            if rng.random() < 0.3:
                late = self.start("single", f"r{self.number}late")
                everyone.append(late)
                writers.append(late)
            time.sleep(rng.uniform(0, 0.15))
        for running in everyone:
            if running not in first_wave:
                running.kill()
        self.kills += len(everyone)
        for running in everyone:
            done = running.process.returncode == 0 and running.name in [name for name, _, _ in self.sources]
            assert running.killed() or done, (
                f"{running.name}: {running.process.returncode}, {running.errors()}"
            )
        found = self.reopen([acknowledged(each) for each in writers])
        for follower in followers:
            self.total_seen += check_follower(follower, found)
        for running in everyone:
            running.out.unlink()
            running.err.unlink()

    def start(self, kind: str, name: str) -> Running:
        if kind == "source":
            return self.start_source(name)
        if kind.startswith("pipe"):
            options = ["append", "--ack", "--no-create", self.topic]
            if kind == "pipe_keyed":
                options += ["-k", name]
                self.keyed.append(name)
            feeder = Feeder(name, self.rng)
            return feeder.started_for(
                lambda descriptor: start_command(name, self.store_dir, *options, stdin=descriptor)
            )
        options = []
        if kind == "single" and self.rng.random() < 0.5:
            options.append("keyed=1")
        return start_worker(kind, self.store_dir, self.topic, name, *options)

    def start_source(self, name: str) -> Running:
        """A file through ``--producer``; the check feeds the rest of it."""
        lines = self.rng.randrange(100, 3000)
        path = self.store_dir.parent / f"{name}.txt"
        path.write_bytes(b"".join(value_of(name, number) + b"\n" for number in range(lines)))
        self.sources.append((name, path, lines))
        return self.feed_source(name, path)

    def feed_source(self, name: str, path: Path) -> Running:
        return start_command(
            name, self.store_dir, "append", "--no-create", self.topic, "--producer", name, str(path)
        )

    def start_follower(self, number: int) -> Running:
        name = f"r{self.number}f{number}"
        if self.rng.random() < 0.5:
            return start_worker("follow", self.store_dir, self.topic, name)
        return start_command(
            name, self.store_dir, "tail", "-f", "-o", "start", "--format", FORMAT, self.topic
        )

    def reopen(self, new: list[Acknowledged]) -> Found:
        rng = self.rng
        self.acked += new
        self.total_acked += sum(each.records for each in new)
        before: Found | None = None
        if rng.random() < 0.5:  # a reader comes first
            with pspf.open(str(self.store_dir), read_only=rng.random() < 0.5) as store:
                before = read_all(store, self.topic, self.partitions)
                check_records(before, self.acked, self.keyed, settled=False)
        with pspf.open(str(self.store_dir)) as store:
            self.acked.append(append_to_each(store, self.topic, self.partitions, self.number))
            found = check_store(store, self.topic, self.partitions)
        check_records(found, self.acked, self.keyed)
        if before is not None:
            for partition, records in before.items():
                assert found[partition][: len(records)] == records, "what a reader saw is gone"
        for name, path, lines in self.sources:
            assert self.feed_source(name, path).wait() == 0
            with pspf.open(str(self.store_dir)) as store:
                found = check_store(store, self.topic, self.partitions)
            there = sum(
                (value or b"").startswith(f"{name}:".encode())
                for records in found.values()
                for _, value in records
            )
            assert there == lines, f"{name}: {there} of {lines} lines after feeding it again"
        self.sources.clear()
        self.records = check_records(found, self.acked, self.keyed)
        return found


def kill_rounds(store_dir: Path, count: int, seed: "int | None" = None) -> int:
    if seed is None:
        seed = int(os.environ.get("PSPF_KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    rounds = Rounds(store_dir, seed)
    try:
        for _ in range(count):
            rounds.run()
    except BaseException as error:
        error.add_note(f"round {rounds.number}, topic {rounds.topic}, {rounds.story}; PSPF_KILL_SEED={seed}")
        raise
    print(
        f"SIGKILL: {count} rounds, {rounds.kills} processes killed, {rounds.total_acked} records "
        f"acknowledged, 0 lost, 0 duplicated, {rounds.total_seen} seen by followers, seed {seed}"
    )
    return count


def test_kill_at_any_instant_loses_and_duplicates_nothing(store_dir: Path) -> None:
    kill_rounds(store_dir, 30)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_300_kills_at_any_instant_lose_and_duplicate_nothing(store_dir: Path, figure: Figure) -> None:
    figure("SIGKILL at random instants", kill_rounds(store_dir, 300))


def soak_kills(part: "Slice") -> int:
    store_dir = part.scratch / "store"
    store_dir.mkdir()
    return kill_rounds(store_dir, 60, part.seed)


SOAK: "dict[str, Work]" = {"SIGKILL at random instants": soak_kills}
