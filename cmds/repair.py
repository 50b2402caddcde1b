"""``pspf repair``: mends an end in doubt, and nothing else."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from pspf.cli.main import Invocation
    from pspf.cli.options import DryRun, Json, Topic

REPORTS = "repair"
EXIT_CODES = (0, 2, 65, 66, 74, 75, 77, 78)
DAMAGED = 65
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
    json: Json = False,
) -> int:
    """Make a partition whose end is in doubt take appends again.

    It does what loses nothing: the damaged segment is kept as it is, and the log goes on in a new one behind
    the last offset that is known. Anything else is named, left alone, and makes the exit code 65.
    """
    from pspf.cli.output import escape, json_lines
    from pspf.cmds.verify import KEYS, finding_text

    store = cli.open()
    numbers = [partition] if partition is not None else range(store.describe(topic).config.partitions)
    code = 0
    for number in numbers:
        report = store.repair(topic, number, dry_run=dry_run)
        if report.left:
            code = DAMAGED
        if json:
            left = [{key: getattr(finding, key) for key in KEYS} for finding in report.left]
            row = {"topic": topic, "partition": number, "done": report.done, "actions": report.actions}
            json_lines([{**row, "left": left}])
            continue
        for action in report.actions:
            print(escape(f"{topic}/{number}: {action}"))
        for finding in report.left:
            print(f"left alone, since this version decides an end in doubt only: {finding_text(finding)}")
        if not report.actions and not report.left:
            cli.note(f"{topic}/{number}: nothing to repair")
    return code
