"""The exit codes that a command declares, against those that the tests see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

SIGNALS = {-1: 129, -2: 130, -13: 141, -15: 143, -9: 137}
ALWAYS = {70, 127, 129, 137}
"""A defect (a test puts one in on purpose), no Python at all (a limit of memory), SIGHUP and SIGKILL."""


@cache
def declared() -> dict[tuple[str, ...], set[int]]:
    """By the words of a command."""
    from pspf.cli.generate import commands

    return {entry.path: set(entry.exit_codes) | ALWAYS for entry in commands()}


def path_of(words: Sequence[str]) -> tuple[str, ...]:
    """The command that a command line is about; empty where there is none."""
    rest = list(words)
    path: tuple[str, ...] = ()
    while rest:
        word = rest.pop(0)
        if word in ("-s", "--store", "--color") and rest:
            rest.pop(0)
        elif not word.startswith("-"):
            path += (word,)
            if path in declared():
                return path
            if not any(known[: len(path)] == path for known in declared()):
                return ()
    return ()


def undeclared(words: Sequence[str], code: int) -> str:
    """What is wrong with the exit code of a command line; empty where nothing is."""
    path = path_of(words)
    code = SIGNALS.get(code, code)
    if not path or code in declared()[path]:
        return ""
    return f"pspf {' '.join(words)} ended with {code}, which EXIT_CODES of '{' '.join(path)}' does not name"
