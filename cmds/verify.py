"""``pspf verify``: reads everything and names what is damaged."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.cli.main import Invocation
    from pspf.cli.options import Json, Topics
    from pspf.store.verify import Finding

REPORTS = "finding"
EXIT_CODES = (0, 2, 65, 66, 74, 77, 78, 130)
EXAMPLES = (
    ("pspf verify", "every topic"),
    ("pspf verify --json orders", "each finding as a JSON object, then one with the totals"),
)
KEYS = (
    "severity",
    "kind",
    "topic",
    "partition",
    "first_offset",
    "last_offset",
    "path",
    "position",
    "length",
    "detail",
)


def verify(cli: Invocation, topics: Topics = None, json: Json = False) -> int:
    """Read everything, check it, and name each damaged range.

    A range is named by topic, partition, offsets, file and bytes. Nothing is changed. Exit 65 if anything is
    damaged; notes, such as an unused file, do not count.
    """
    from pspf.cli.output import json_lines
    from pspf.cli.progress import Progress
    from pspf.cli.text import counted

    progress = Progress(cli, "verifying")

    def found(finding: Finding) -> None:
        progress.clear()
        if json:
            json_lines([{"type": "finding", **{key: getattr(finding, key) for key in KEYS}}])
        else:
            print(finding_text(finding))

    report = cli.open().verify(topics or None, on_finding=found, on_progress=progress.update)
    progress.clear()
    totals = {
        "partitions": report.partitions,
        "segments": report.segments,
        "batches": report.batches,
        "records": report.records,
        "bytes": report.bytes,
    }
    if json:
        json_lines([{"type": "summary", "ok": report.ok, **totals, "findings": len(report.findings)}])
    else:
        told = f"{counted(report.records, 'record')}, {counted(report.bytes, 'byte')}"
        cli.note(f"{told}: {'ok' if report.ok else 'DAMAGED'}")
    return 0 if report.ok else 65


def finding_text(finding: Finding) -> str:
    """A finding as a line."""
    from pspf.cli.output import escape

    text = f"{finding.severity}: {finding.place}: {finding.kind}"
    if finding.first_offset >= 0:
        text += f", offsets {finding.first_offset} to {finding.last_offset}"
    if finding.detail:
        text += f": {finding.detail}"
    if finding.path:
        text += f" ({finding.path}"
        if finding.position >= 0:
            text += f", byte {finding.position}, {finding.length} bytes"
        text += ")"
    return escape(text)
