"""W10: memory of processes that much goes through.

What counts is the peak of what was resident, ``VmHWM``, over that of the same command with next to nothing to
do. (``ru_maxrss`` of a child would begin with the memory of the parent that forked it.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from time import monotonic, sleep

from pspf import errors
from pspf.bench import events
from pspf.bench.processes import PATIENCE_S, command, must_succeed
from pspf.bench.report import AT_MOST, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pspf.bench.context import Context
    from pspf.bench.report import Row

TOPIC = "bench"
LIMIT_MIB = 64


def peaks(context: Context) -> list[Row]:
    """W10."""
    if not sys.platform.startswith("linux"):
        context.say("W10: the peak of a process is read from /proc; not measured here")
        return []
    mebibytes = context.size(512, 64, 2)
    followed = context.size(100, 20, 1)
    block = b"".join(value + b"\n" for value in events.values((1 << 20) // events.LINE_BYTES))
    append = [*command(), "append", "-q", "-s", context.path("w10"), TOPIC]
    small, big = fed(append, context, block, 1), fed(append, context, block, mebibytes)
    follow = following(context, append, block, followed)
    verify = [*command(), "verify", "-q", "-s"]
    with context.store("w10-small") as store:
        store.append(TOPIC, b"one")
    checked = watched([*verify, context.path("w10")], context)
    checked_small = watched([*verify, context.path("w10-small")], context)
    context.remove("w10", "w10-small", "followed")
    return [
        row("W10", "append of 1 MiB, peak", [small], "MiB"),
        grown(f"append of {mebibytes} MiB through a pipe", big, small),
        grown(f"follower of {followed} MiB", follow[1], follow[0]),
        row("W10", "verify of one record, peak", [checked_small], "MiB"),
        grown(f"verify of {mebibytes + followed} MiB", checked, checked_small),
    ]


def grown(metric: str, peak: float, start: float) -> Row:
    """A row for the growth from ``start`` to ``peak``."""
    return row("W10", f"{metric}, over its start", [peak - start], "MiB", goal=(AT_MOST, LIMIT_MIB))


def peak_mib(pid: int) -> float:
    """The most that was ever resident; 0 when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def start(argv: Sequence[str], context: Context, **pipes: int) -> subprocess.Popen[bytes]:
    """A process with nothing on its standard streams but what is asked for."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **pipes}
    return subprocess.Popen(argv, env=context.env, stderr=subprocess.PIPE, **streams)  # type: ignore[call-overload,no-any-return]


def ended(process: subprocess.Popen[bytes], codes: tuple[int, ...] = (0,)) -> None:
    """Wait for the end of a process that should succeed."""
    _, said = process.communicate()
    if process.returncode not in codes:
        must_succeed(process.args, process.returncode, said)  # type: ignore[arg-type]


def fed(argv: Sequence[str], context: Context, block: bytes, blocks: int) -> float:
    """Peak of a process that ``blocks`` times ``block`` is piped into."""
    process = start(argv, context, stdin=subprocess.PIPE)
    assert process.stdin is not None
    peak = 0.0
    try:
        for _ in range(blocks):
            process.stdin.write(block)
            peak = max(peak, peak_mib(process.pid))
        process.stdin.flush()
        # The pipe is empty when the last of it is in the process; its end would take the process away.
        sleep(0.3)
        peak = max(peak, peak_mib(process.pid))
        process.stdin.close()
        process.stdin = None
    except BrokenPipeError:
        pass  # it says why
    ended(process)
    return peak


def watched(argv: Sequence[str], context: Context) -> float:
    """Peak of a process that ends by itself."""
    process = start(argv, context)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, peak_mib(process.pid))
        sleep(0.002)
    ended(process)
    return peak


def following(context: Context, append: Sequence[str], block: bytes, blocks: int) -> tuple[float, float]:
    """Peak of a follower before and after ``blocks`` mebibytes came."""
    out = context.path("followed")
    with open(out, "wb") as file:
        process = start(
            [*command(), "tail", "-q", "-f", "-n", "1", "-s", context.path("w10"), TOPIC],
            context,
            stdout=file.fileno(),
        )
    try:
        wait_for_size(out, events.LINE_BYTES, process)
        before = peak_mib(process.pid)
        fed(append, context, block, blocks)
        wait_for_size(out, events.LINE_BYTES + blocks * len(block), process)
        after = peak_mib(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        ended(process, (0, 143, -signal.SIGTERM))
    return before, after


def wait_for_size(path: str, size: int, process: subprocess.Popen[bytes]) -> None:
    """Until the file has grown to ``size``."""
    until = monotonic() + PATIENCE_S
    while os.path.getsize(path) < size:
        if process.poll() is not None:
            ended(process)
            raise errors.IOFailed("cannot measure", "a follower ended by itself")
        if monotonic() > until:
            raise errors.IOFailed("cannot measure", "a follower does not get everything")
        sleep(0.01)
