"""``pspf completion``: what a shell needs to complete command lines."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Literal

    import typer

    from pspf.cli.main import Invocation

REPORTS = None
EXIT_CODES = (0, 2, 74, 141)
EXAMPLES = (
    ("pspf completion bash > ~/.local/share/bash-completion/completions/pspf", "for bash"),
    ("pspf completion zsh > ~/.zfunc/_pspf", "for zsh, with ~/.zfunc in fpath"),
    ("pspf completion fish > ~/.config/fish/completions/pspf.fish", "for fish"),
)


def completion(
    cli: Invocation,
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")
    ],
) -> None:
    """Print the completion file of a shell.

    An installed package has put it in place already.
    """
    from pspf.cli.completions import render
    from pspf.cli.generate import commands

    print(render(shell, commands()), end="")
