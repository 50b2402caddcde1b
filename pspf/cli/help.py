"""``--help``: one screen a command, grouped, with examples; plain text that a pipe can keep.

Laid out from the option table. Headings are bold where colour is allowed.
"""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

from pspf.cli.output import color_allowed
from pspf.cli.table import EXIT_MEANINGS, Command, Option
from pspf.errors import BadConfig

LABEL_WIDTH = 30
WIDEST = 100


def command_help(entry: Command, color: str | None = None) -> str:
    """The help of one command."""
    page = Page(color)
    page.line(f"{page.bold('usage:')} {entry.usage()}")
    page.line()
    page.paragraph(entry.summary + ".")
    for paragraph in filter(None, entry.description.split("\n\n")):
        page.line()
        page.paragraph(paragraph)
    described = [(a.label().strip("[]"), a.help) for a in entry.arguments if a.help]
    if described:
        page.heading("Arguments")
        page.rows(described)
    for panel, options in entry.panels():
        page.heading(panel)
        page.rows([(label_of(o), o.help) for o in options])
    page.heading("Examples")
    for line, meaning in entry.examples:
        page.line(f"  {line}")
        page.paragraph(meaning, "      ")
    codes = [f"{code} {EXIT_MEANINGS[code].split(':')[0]}" for code in entry.exit_codes]
    page.heading("Exit codes")
    page.paragraph("; ".join(codes) + ".", "  ")
    return page.text()


def group_help(group: Any, color: str | None = None) -> str:
    """The help of ``pspf`` itself, or of a noun."""
    page = Page(color)
    noun = getattr(group, "noun", None)
    if noun is not None:
        page.line(f"{page.bold('usage:')} pspf {group.name} COMMAND [OPTIONS] …")
        page.line()
        page.paragraph((noun.__doc__ or "").strip().split("\n\n")[0].partition(": ")[2].capitalize())
        page.heading("Commands")
        page.rows([(name, command.entry.summary) for name, command in group.commands.items()])
        page.line()
        page.line(f"See: pspf {group.name} COMMAND --help, man pspf-{group.name}")
        return page.text()
    from pspf.cli.app import GROUPS

    page.line(f"{page.bold('usage:')} pspf [-s DIR] COMMAND [OPTIONS] …")
    page.line()
    page.paragraph("Store and read event streams in a directory: an append-only log, without a server.")
    for heading, names in GROUPS:
        page.heading(heading)
        page.rows([(name, summary_of(group.commands[name])) for name in names])
    page.heading("Options")
    page.rows([(label_of(o), o.help) for o in (Option(p) for p in group.params)])
    page.line()
    page.line("See: pspf COMMAND --help, man pspf")
    return page.text()


def summary_of(command: Any) -> str:
    """One line on a command; a noun names its sub-commands."""
    entry = getattr(command, "entry", None)
    return entry.summary if entry is not None else ", ".join(command.commands)


def label_of(option: Option) -> str:
    """Options without a short spelling are indented to stand under the long ones."""
    return option.label() if len(option.names[0]) == 2 else "    " + option.label()


class Page:
    """Text under construction, as wide as the terminal and no wider than is good to read."""

    def __init__(self, color: str | None) -> None:
        self.lines: list[str] = []
        self.width = min(WIDEST, shutil.get_terminal_size((80, 24)).columns)
        try:
            self.color = color_allowed(color)
        except BadConfig:
            self.color = False  # of all commands help must not fail at a configuration

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.color else text

    def line(self, text: str = "") -> None:
        self.lines.append(text)

    def heading(self, text: str) -> None:
        self.lines += ["", self.bold(text + ":")]

    def paragraph(self, text: str, indent: str = "") -> None:
        self.lines += textwrap.wrap(
            " ".join(text.split()),
            self.width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )

    def rows(self, rows: list[tuple[str, str]]) -> None:
        """A label and its explanation, side by side where there is room."""
        column = min(LABEL_WIDTH, max(len(label) for label, _ in rows) + 4)
        for label, text in rows:
            wrapped = textwrap.wrap(text, max(20, self.width - column), break_on_hyphens=False) or [""]
            if len(label) + 4 > column:
                self.lines.append(f"  {label}")
            else:
                self.lines.append(f"  {label:<{column - 2}}{wrapped.pop(0)}".rstrip())
            self.lines += [" " * column + part for part in wrapped]

    def text(self) -> str:
        return "\n".join(self.lines)
