"""``pspf help``: the help of a command."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from pspf.cli.main import Invocation

REPORTS = None
EXIT_CODES = (0, 2, 74, 141)
EXAMPLES = (("pspf help topic create", "the same as pspf topic create --help"),)


def help(
    cli: Invocation,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="A command, or a noun and one.")
    ] = None,
) -> int:
    """Print what a command does, its options, and examples."""
    from pspf.cli.app import run_typer
    from pspf.cli.main import carry_out

    words = [word for word in command or [] if not word.startswith("-")]
    color = [] if cli.color is None else ["--color", cli.color]
    return run_typer([*color, *words, "--help"], carry_out)
