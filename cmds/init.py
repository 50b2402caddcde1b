"""``pspf init``: a new store."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from pspf.cli.main import Invocation

REPORTS = None
EXIT_CODES = (0, 2, 73, 74, 77, 78, 141)
EXAMPLES = (
    ('eval "$(pspf init events)"', "make a store and use it in this shell"),
    ("pspf init --shared=ingest /srv/events", "a store that the members of a group write to"),
)


def init(
    cli: Invocation,
    directory: Annotated[
        str | None, typer.Argument(metavar="DIR", help="Where; the usual store directory when left out.")
    ] = None,
    shared: Annotated[
        str | None,
        typer.Option("--shared", metavar="[=GROUP]", help="Modes 0770 and 0660, for the members of a group."),
    ] = None,
) -> None:
    """Make a store, and print the line that makes a shell use it."""
    import shlex

    from pspf.store.init import init_store
    from pspf.store.location import locate

    if directory == "":
        from pspf.cli.failure import empty

        raise empty("DIR", "pspf init DIR, or leave it out")
    # --shared without a name keeps the group that files get here anyway.
    cli.opened = store = init_store(locate(directory or cli.store), True if shared == "" else shared)
    cli.note(f"created store {store.path}")
    print(f"export PSPF_STORE={shlex.quote(store.path)}")
