"""`make soak`: the fault tests without end in sight, for so many minutes, and on from there the next time.

Each row of the table is done in slices of some seconds up to some minutes, each in a process of its own, with
a seed of its own; the row that had the least time comes next. After each slice the sums are written to
``.soak/state.json``, so that a run that is interrupted loses only the slices under way, and the next run
adds to them. A slice that fails leaves its output in ``.soak/failed/`` and the run ends with 1; the same seed
does the same again:

    SOAK_MINUTES=60 make soak
    .venv-dev/bin/python -m tests.soak --only "crash states: roll" --seed 1234 --slices 1
    .venv-dev/bin/python -m tests.soak --report
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.support_figures import FIGURES, table

ROOT = Path(__file__).resolve().parent.parent
SLICE_SECONDS_MOST = 1_800


class Slice(NamedTuple):
    """What a slice gets: a seed, its number in the row, and an empty directory on a real disk."""

    seed: int
    number: int
    scratch: Path


Work = Callable[[Slice], int]
"""Does a part of a row, and returns how much; raises if a promise is broken."""

# Each has ``SOAK``: names of FIGURES to Work.
MODULES = (
    "tests.test_crash_states",
    "tests.test_kills",
    "tests.test_many_processes",
    "tests.test_real_faults",
    "tests.test_damage",
    "tests.test_limits",
    "tests.test_model",
    "tests.test_fuzz",
    "tests.test_mutation_gate",
)


def all_work() -> dict[str, Work]:
    """The rows in the order of the table."""
    found: dict[str, Work] = {}
    for module in MODULES:
        found.update(importlib.import_module(module).SOAK)
    assert found.keys() == {name for name, required in FIGURES.items() if required.soak}, "a row is missing"
    return {name: found[name] for name in FIGURES if name in found}


class Soak:
    """The sums over all runs, and the slices of this one."""

    def __init__(self, home: Path, work: dict[str, Work], seed: "int | None" = None) -> None:
        self.home = home
        self.work = work
        self._state_file = home / "state.json"
        self.state: dict[str, Any] = {"seconds": 0, "runs": 0, "commits": [], "rows": {}}
        if self._state_file.exists():
            self.state = json.loads(self._state_file.read_text())
        self.state.setdefault("seed", random.SystemRandom().randrange(1 << 31))
        self._seed = seed
        self._under_way: dict[int, tuple[str, Slice, float]] = {}
        (home / "failed").mkdir(parents=True, exist_ok=True)

    def row(self, name: str) -> dict[str, Any]:
        fresh = {"reached": 0, "slices": 0, "seconds": 0, "failed": []}
        found: dict[str, Any] = self.state["rows"].setdefault(name, fresh)
        return found

    def run(self, minutes: float, jobs: int, slices: int) -> bool:
        """Work until the time is over; whether nothing failed."""
        self.state["runs"] += 1
        commit = _commit()
        if commit not in self.state["commits"]:
            self.state["commits"].append(commit)
        began = time.monotonic()
        left = slices or sys.maxsize
        failed_before = self._failed()
        while True:
            while len(self._under_way) < jobs and left and time.monotonic() - began < 60 * minutes:
                name = self._next()
                if name is None:
                    break
                self._start(name)
                left -= 1
            if not self._under_way:
                break
            self._collect()
        self.state["seconds"] += round(time.monotonic() - began)
        self._save()
        return self._failed() == failed_before

    def report(self) -> list[str]:
        """The table, and what it was done with."""
        rows = [
            (name, self.row(name)["reached"], FIGURES[name].soak, FIGURES[name].unit)
            for name in FIGURES
            if FIGURES[name].soak
        ]
        lines = table(rows)
        lines.append(
            f"{self.state['seconds'] / 60:.0f} minutes in {self.state['runs']} runs,"
            f" seed {self.state['seed']}, commits {' '.join(self.state['commits'])}"
        )
        for name in self.state["rows"]:
            lines += [f"FAILED: {name}, seed {seed}" for seed in self.row(name)["failed"]]
        return lines

    def _failed(self) -> int:
        return sum(len(self.row(name)["failed"]) for name in self.state["rows"])

    def _next(self) -> "str | None":
        """The row that had the least time and is not done yet. Slices of one row may run side by side."""
        busy = [name for name, _, _ in self._under_way.values()]
        due = [
            (self.row(name)["seconds"] + 60 * busy.count(name), name)
            for name in self.work
            if self.row(name)["reached"] < FIGURES[name].soak
        ]
        return min(due)[1] if due else None

    def _start(self, name: str) -> None:
        row = self.row(name)
        number = row["slices"]
        row["slices"] += 1
        seed = (self.state["seed"] if self._seed is None else self._seed) + number * (self._seed is None)
        parent = ROOT / ".test-data"
        parent.mkdir(exist_ok=True)
        work = Slice(seed, number, Path(tempfile.mkdtemp(dir=parent)))
        pid = os.fork()
        if pid == 0:
            os._exit(_child(self.work[name], work, self._log(name, seed)))
        self._under_way[pid] = (name, work, time.monotonic())

    def _log(self, name: str, seed: int) -> Path:
        plain = "".join(c if c.isalnum() else "-" for c in name)
        return self.home / "failed" / f"{plain}-{seed}.txt"

    def _collect(self) -> None:
        """Wait for one slice to end, or end one that hangs."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                break
            for hung, (_, _, began) in self._under_way.items():
                if time.monotonic() - began > SLICE_SECONDS_MOST:
                    os.killpg(hung, signal.SIGKILL)
            time.sleep(0.05)
        name, work, began = self._under_way.pop(pid)
        row = self.row(name)
        seconds = time.monotonic() - began
        row["seconds"] += round(seconds, 1)
        log = self._log(name, work.seed)
        if status == 0:
            count = json.loads(log.read_text().splitlines()[-1])
            row["reached"] += count
            log.unlink()
            print(f"{name}: {count} more in {seconds:.0f} s, {row['reached']} in all", flush=True)
        else:
            row["failed"].append(work.seed)
            print(f"{name}: FAILED with seed {work.seed}, see {log.relative_to(ROOT)}", flush=True)
        shutil.rmtree(work.scratch, ignore_errors=True)
        self._save()

    def _save(self) -> None:
        new = self._state_file.with_suffix(".new")
        new.write_text(json.dumps(self.state, indent=1))
        new.replace(self._state_file)


def _child(work: Work, part: Slice, log: Path) -> int:
    os.setpgid(0, 0)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    status = 1
    try:
        print(f"seed {part.seed}, slice {part.number}")
        count = work(part)
        print(json.dumps(count))
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _commit() -> str:
    ran = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ran.stdout.strip() or "unknown"


def main() -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES") or 60))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", help="rows whose names begin so")
    parser.add_argument("--seed", type=int, help="the seed of every slice, to see a failure again")
    parser.add_argument("--slices", type=int, default=0, help="at most so many")
    parser.add_argument("--report", action="store_true", help="only show what was done so far")
    args = parser.parse_args()
    work = all_work()
    if args.only:
        work = {name: do for name, do in work.items() if name.startswith(tuple(args.only))}
    soak = Soak(ROOT / ".soak", work, args.seed)
    good = args.report or soak.run(args.minutes, args.jobs, args.slices)
    print("\n".join(soak.report()))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
