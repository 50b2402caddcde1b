"""Tables, JSON lines, sizes and times on standard output.

On a terminal tables are drawn by rich, sizes are rounded and control bytes escaped. Into a pipe the same
columns go as plain aligned text with exact numbers, so that ``awk`` can work on them. ``--json`` is one
object a line with keys that stay; it is the form for programs.
"""

from __future__ import annotations

import sys
from os import environ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pspf.cli.main import Invocation

Column = "tuple[str, str, str]"
"""Key in the row, heading, and kind: text, number, size, time."""

NOTHING = "-"
WIDEST = 1 << 20
"""A pipe has no width."""


def json_lines(rows: Iterable[dict[str, Any]]) -> None:
    """One object a line. Bytes that are no text appear with each bad byte escaped."""
    for row in rows:
        sys.stdout.buffer.write(json_line(row))


def json_line(row: dict[str, Any]) -> bytes:
    import orjson

    try:
        return orjson.dumps(row, default=as_json) + b"\n"
    except TypeError:  # a number beyond 64 bits, of a forged header, or a name that is no text
        import json

        return json.dumps(row, default=as_json, separators=(",", ":")).encode() + b"\n"


def as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def on_terminal() -> bool:
    return sys.stdout.isatty()


def colored(cli: Invocation) -> bool:
    """Whether standard output may be coloured: ``--color``, settings, NO_COLOR, then if it is a terminal."""
    return color_allowed(cli.color)


def color_allowed(option: str | None) -> bool:
    """The same for the value of ``--color``."""
    from pspf.store.location import setting

    chosen = option or setting("color")[0]
    if chosen in ("always", "never"):
        return chosen == "always"
    return on_terminal() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def table(
    cli: Invocation,
    columns: Sequence[tuple[str, str, str]],
    rows: Sequence[dict[str, Any]],
    local: bool = False,
) -> None:
    """Print rows under headings; nothing at all when there are none."""
    if not rows:
        return
    rounded = on_terminal()
    cells = [[cell(row.get(key), kind, rounded, local) for key, _, kind in columns] for row in rows]
    if rounded or colored(cli):
        rich_table(cli, columns, cells)
        return
    widths = [max(len(line[i]) for line in [[c[1] for c in columns], *cells]) for i in range(len(columns))]
    for line in [[heading for _, heading, _ in columns], *cells]:
        parts = [
            text.ljust(width) if kind in ("text", "time") else text.rjust(width)
            for text, width, (_, _, kind) in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(parts).rstrip())


def rich_table(cli: Invocation, columns: Sequence[tuple[str, str, str]], cells: list[list[str]]) -> None:
    """The table on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for at, (_, heading, kind) in enumerate(columns):
        # Where there is no room texts are folded; half a time or half a number is none.
        drawn.add_column(
            heading,
            justify="left" if kind in ("text", "time") else "right",
            overflow="fold",
            no_wrap=kind != "text",
            min_width=None if kind == "text" else max(len(line[at]) for line in cells),
        )
    for line in cells:
        drawn.add_row(*(Text(text) for text in line))
    allowed = colored(cli)
    console = Console(
        color_system="standard" if allowed else None,
        force_terminal=True if allowed else None,
        highlight=False,
        width=None if on_terminal() else WIDEST,
    )
    console.print(drawn)


def cell(value: Any, kind: str, rounded: bool, local: bool) -> str:
    """One value of a table as text."""
    if value is None or value == "":
        return NOTHING
    if kind == "time":
        return time_text(value, local, "seconds" if rounded else "milliseconds")
    if kind == "size" and rounded:
        return size_text(value)
    return escape(str(value))


def size_text(size: int) -> str:
    """Bytes as a person reads them: ``12.3 MiB``."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{size} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def time_text(time_ms: int, local: bool = False, precision: str = "milliseconds") -> str:
    """Milliseconds since 1970 as RFC 3339, in UTC with ``Z`` or with the local offset.

    A time that no calendar holds is printed as the number it is.
    """
    from datetime import UTC, datetime, timedelta

    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
        if local:
            return moment.astimezone().isoformat(timespec=precision)
    except (OverflowError, OSError, ValueError):
        return f"{time_ms} ms"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def escape(text: str) -> str:
    """``text`` without characters that would drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
