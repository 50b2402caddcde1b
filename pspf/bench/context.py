"""What every workload is given: where to work, how much, and how to be heard."""

from __future__ import annotations

import os
import shutil

import pspf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.store.store import Store


class Context:
    """One run.

    :param directory: empty, on the disk that is measured; whoever made it removes it.
    :param records: events of the bulk workloads.
    :param quick: fewer repeats, and smaller fixtures.
    :param tiny: hardly anything at all: shows that a workload works, measures nothing.
    """

    __slots__ = ("directory", "env", "quick", "records", "say", "tiny")

    def __init__(
        self,
        directory: str,
        records: int,
        quick: bool,
        env: dict[str, str],
        say: Callable[[str], None],
        tiny: bool = False,
    ) -> None:
        self.directory = directory
        self.records = records
        self.quick = quick or tiny
        self.tiny = tiny
        self.env = env
        self.say = say

    def size(self, full: int, quick: int, tiny: int) -> int:
        """The figure for this kind of run."""
        return tiny if self.tiny else quick if self.quick else full

    def path(self, name: str) -> str:
        """A path in the directory."""
        return os.path.join(self.directory, name)

    def store(self, name: str) -> Store:
        """A store in the directory, made if it is not there."""
        return pspf.open(self.path(name))

    def remove(self, *names: str) -> None:
        """Take files or trees away, so that the disk holds one fixture at a time."""
        for name in names:
            path = self.path(name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)
