"""Other processes: the installed command, and helpers that run a function of ours at a given moment.

A helper is ``python -m pspf.bench.processes MODULE FUNCTION ARGUMENTS``: it calls ``FUNCTION(**ARGUMENTS)``
of ``pspf.bench.MODULE``, which prepares everything and returns what is to be measured. It says ``ready``,
waits for the word to go, runs that, and prints what it returned.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from time import perf_counter

from pspf import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any


PATIENCE_S = 300
"""A measured process that takes longer than this will not end at all."""


def command() -> list[str]:
    """How to start ``pspf``: the script that was installed next to this Python, or Python itself."""
    path = os.path.join(os.path.dirname(sys.executable), "pspf")
    if os.access(path, os.X_OK):
        return [path]
    return [sys.executable, "-c", "from pspf.cli.main import main; main()"]


def environment(directory: str) -> dict[str, str]:
    """The environment of measured processes: without settings of whoever measures."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PSPF_")}
    return {**kept, "HOME": directory, "XDG_CONFIG_HOME": directory, "XDG_DATA_HOME": directory}


def timed(
    argv: Sequence[str],
    env: dict[str, str],
    stdin: int | IO[bytes] | None = None,
    input: bytes | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
) -> float:
    """Seconds from the start of a process to its end.

    :raises pspf.errors.IOFailed: it failed; with what it said on standard error.
    """
    start = perf_counter()
    ran = subprocess.run(
        argv,
        env=env,
        stdin=None if input is not None else subprocess.DEVNULL if stdin is None else stdin,
        input=input,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    took = perf_counter() - start
    must_succeed(argv, ran.returncode, ran.stderr)
    return took


def must_succeed(argv: Sequence[str], code: int, said: bytes) -> None:
    """Turn a failed process into an error that shows its last words."""
    if code:
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {code}"]
        raise errors.IOFailed(f"cannot measure: {os.path.basename(argv[0])} failed", last[0])


class Helper:
    """A helper process that is prepared and waits."""

    __slots__ = ("_argv", "_process")

    def __init__(self, module: str, function: str, env: dict[str, str], **arguments: Any) -> None:
        self._argv = [sys.executable, "-m", "pspf.bench.processes", module, function, json.dumps(arguments)]
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self._fail()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def go(self) -> None:
        """Let it run."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """Wait for its end; what the function returned."""
        try:
            out, said = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise errors.IOFailed("cannot measure", f"a process did not end within {PATIENCE_S} s") from None
        must_succeed(self._argv, self._process.returncode, said)
        return json.loads(out)

    def kill(self) -> None:
        """End it without a result."""
        self._process.kill()
        self._process.communicate()

    def _fail(self) -> None:
        _, said = self._process.communicate()
        must_succeed(self._argv, self._process.returncode or 1, said)


def together(helpers: Sequence[Helper]) -> list[Any]:
    """Let all run at once; what each returned."""
    for helper in helpers:
        helper.go()
    return [helper.result() for helper in helpers]


def main() -> None:
    """The helper's side."""
    from importlib import import_module

    module, function, arguments = sys.argv[1:]
    run = getattr(import_module(f"pspf.bench.{module}"), function)(**json.loads(arguments))
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":
        sys.exit(1)  # whoever measures is gone
    print(json.dumps(run()), flush=True)


if __name__ == "__main__":
    main()
