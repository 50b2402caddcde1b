"""``pspf repair``: mends an end in doubt, and nothing else."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from pspf.cli.main import Invocation
    from pspf.cli.options import DryRun, Topic

REPORTS = None
EXIT_CODES = (0, 2, 65, 66, 74, 75, 77, 78)
EXAMPLES = (
    ("pspf repair --dry-run orders", "what it would do"),
    ("pspf repair -p 3 orders", "one partition"),
)


def repair(
    cli: Invocation,
    topic: Topic,
    partition: Annotated[
        int | None, typer.Option("-p", "--partition", metavar="N", min=0, help="This partition only.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make a partition whose end is in doubt take appends again.

    It does what loses nothing: the damaged segment is kept as it is, and the log goes on in a new one behind
    the last offset that is known. Anything else is left alone; verify names it.
    """
    store = cli.open()
    numbers = [partition] if partition is not None else range(store.describe(topic).config.partitions)
    for number in numbers:
        report = store.repair(topic, number, dry_run=dry_run)
        for action in report.actions:
            print(f"{topic}/{number}: {action}")
        if not report.actions:
            cli.note(f"{topic}/{number}: nothing to repair")
