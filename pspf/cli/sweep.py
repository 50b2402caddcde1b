"""Asking the same of many topics: one that fails is reported, and the others are still shown."""

from __future__ import annotations

from pspf.errors import Error, NoSuchTopic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pspf.cli.main import Invocation
    from pspf.store.store import Store


class Sweep:
    """The rows that could be had, and the exit code: that of the first failure."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.code = 0


def sweep(
    cli: Invocation, store: Store, topics: list[str] | None, ask: Callable[[str], list[dict[str, Any]]]
) -> Sweep:
    """Ask for each of ``topics``, or for every topic of the store."""
    from pspf.cli.failure import show

    swept = Sweep()
    for name in topics or store.topics():
        try:
            swept.rows += ask(name)
        except NoSuchTopic as error:
            # Deleted since the names were listed: nobody asked for it.
            if topics:
                show(error)
                swept.code = swept.code or error.exit_code
        except Error as error:
            swept.code = swept.code or error.exit_code
            show(error)
    return swept
