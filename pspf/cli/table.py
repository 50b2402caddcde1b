"""The option table: what each command is, read off the typer application.

Help, man pages, completions, the reference in ``docs/`` and the tables of the fast parser are all made from
it, so none of them can say something else than what typer does.
"""

from __future__ import annotations

import inspect
from typing import Any

PRINTING = (74, 141)
"""Exit codes of whatever prints: the disk behind standard output may be full, and its reader may go away."""


class Option:
    """One option.

    ``names`` are its spellings, ``negative`` those that switch it off; ``kind`` is as in
    :mod:`pspf.cli.fast`; ``metavar`` is empty for a flag, and in brackets when the value may be left out.
    """

    def __init__(self, parameter: Any) -> None:
        self.parameter: str = parameter.name
        self.names: list[str] = list(parameter.opts)
        self.negative: list[str] = list(parameter.secondary_opts)
        self.help: str = parameter.help or ""
        self.panel: str = parameter.rich_help_panel or ""
        self.repeats: bool = parameter.multiple
        self.choices: tuple[str, ...] = tuple(getattr(parameter.type, "choices", ()))
        self.flag: bool = parameter.is_flag
        self.metavar: str = "" if self.flag else (parameter.metavar or parameter.name.upper())
        self.required: bool = parameter.required
        self.kind = kind_of(parameter)

    @property
    def value_may_be_missing(self) -> bool:
        return self.metavar.startswith("[")

    def label(self) -> str:
        """``-K, --key-separator SEP``."""
        names = ", ".join(self.names + self.negative)
        if not self.metavar:
            return names
        return names + self.metavar if self.value_may_be_missing else f"{names} {self.metavar}"


class Argument:
    """One positional argument."""

    def __init__(self, parameter: Any) -> None:
        self.parameter: str = parameter.name
        self.metavar: str = parameter.metavar or parameter.name.upper()
        self.help: str = parameter.help or ""
        self.required: bool = parameter.required
        self.repeats: bool = parameter.nargs == -1
        self.choices: tuple[str, ...] = tuple(getattr(parameter.type, "choices", ()))
        self.kind: Any = "list" if self.repeats else (self.choices or "text")

    def label(self) -> str:
        """As it stands in the usage line: ``[FILE…]``."""
        text = self.metavar + ("…" if self.repeats else "")
        return text if self.required else f"[{text}]"


class Command:
    """One command that does something; a noun's sub-command is one too."""

    def __init__(self, path: tuple[str, ...], click: Any, module: Any, function: Any) -> None:
        self.path = path
        self.module = module
        self.function = function
        text = inspect.getdoc(function) or ""
        self.summary, _, self.description = (part.strip() for part in text.partition("\n\n"))
        self.summary = self.summary.rstrip(".")
        self.arguments = [Argument(p) for p in click.params if p.param_type_name == "argument"]
        self.options = [Option(p) for p in click.params if p.param_type_name == "option"]
        self.reports: str | None = constant(module, "REPORTS", path)
        codes: tuple[int, ...] = constant(module, "EXIT_CODES", path)
        self.exit_codes = tuple(sorted({*codes, *(PRINTING if self.reports is not None else ())}))
        self.examples: tuple[tuple[str, str], ...] = constant(module, "EXAMPLES", path)

    @property
    def name(self) -> str:
        return " ".join(self.path)

    def usage(self) -> str:
        """``pspf append [OPTIONS] TOPIC [FILE…]``; options that must be given are named."""
        must = [f"{option.names[0]} {option.metavar}" for option in self.options if option.required]
        return " ".join(["pspf", *self.path, *must, "[OPTIONS]", *(a.label() for a in self.arguments)])

    def panels(self) -> list[tuple[str, list[Option]]]:
        """Options by group, in the order of their first appearance; those of every command last."""
        found: dict[str, list[Option]] = {}
        for option in self.options:
            found.setdefault(option.panel or "Options", []).append(option)
        common = found.pop("Common options", None)
        return [*found.items(), *([("Common options", common)] if common else [])]


def constant(module: Any, name: str, path: tuple[str, ...]) -> Any:
    """A command's constant; the module of a noun holds a dictionary by sub-command."""
    value = getattr(module, name)
    return value[path[1]] if len(path) > 1 else value


def kind_of(parameter: Any) -> Any:
    """The kind that the fast parser knows this option by; ``decline`` if it does not."""
    choices = tuple(getattr(parameter.type, "choices", ()))
    if parameter.is_flag:
        return "flag"
    if (parameter.metavar or "").startswith("["):
        return "decline"
    if parameter.multiple:
        return "list" if parameter.type.name == "str" and not choices else "decline"
    if choices:
        return choices
    if parameter.type.name == "str":
        return "text"
    if parameter.type.name == "int" or (
        parameter.type.name == "int range" and parameter.type.min == 0 and parameter.type.max is None
    ):
        return "number"
    return "decline"


ENVIRONMENT = {
    "PSPF_STORE": "The store directory, where -s does not name one; it may begin with ~/.",
    "PSPF_COLOR": "auto, always or never, where --color does not say it.",
    "PSPF_FORCE": "With the value 1, a store may be made on a network or FUSE file system.",
    "PSPF_WAKE": "How followers learn of new records: inotify, watchfiles or poll.",
    "PSPF_DEBUG": "With the value 1, an error is followed by a traceback.",
    "NO_COLOR": "No colour, if not empty.",
}
"""What commands look at besides their options; a test holds the manual to it."""

EXIT_MEANINGS = {
    0: "done",
    1: "a finding: skipped input, an offset that was not as expected, a question answered no",
    2: "usage",
    65: "damaged or malformed data",
    66: "no such store, topic, partition or input file",
    70: "a defect in PSPF itself",
    73: "cannot create: it exists",
    74: "input or output error, full disk, poisoned partition",
    75: "busy",
    77: "permission denied",
    78: "configuration, or a newer format",
    130: "ended by SIGINT",
    141: "ended by SIGPIPE",
    143: "ended by SIGTERM",
}
