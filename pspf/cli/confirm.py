"""Asking before something is destroyed."""

from __future__ import annotations

import sys

from pspf.errors import Usage


def confirmed(deed: str, what: str, yes: bool, command: str) -> bool:
    """Whether to go on: ``--yes``, or an answer typed at a terminal.

    :param deed: what would be done. :param what: what would be lost.
    :param command: the hint for those who cannot be asked, with ``--yes`` in it.
    """
    if yes:
        return True
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()):
        raise Usage(f"cannot {deed}", "nobody is there to confirm it", hint=command)
    sys.stderr.write(f"pspf: {deed} ({what})? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
