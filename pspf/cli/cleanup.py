"""Ending by a signal where there are files to remove first."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

from pspf.cli.signals import SIGHUP, SIGTERM


def clean_up_on_termination() -> None:
    """Let SIGTERM and SIGHUP unwind a command that has files of its own to remove, as SIGINT does."""
    for number in (SIGTERM, SIGHUP):
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, interrupt)


def interrupt(number: int, _frame: object) -> None:
    """A handler; :func:`pspf.cli.main.run` dies of the number that it finds in the exception."""
    raise KeyboardInterrupt(number)
