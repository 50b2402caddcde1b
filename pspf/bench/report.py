"""From samples to rows: medians, spreads, ratios, and whether a goal is met."""

from __future__ import annotations

from math import ceil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Row = dict[str, Any]
    Goal = tuple[str, float]

AT_LEAST = "≥"
AT_MOST = "≤"
EQUAL = "="


def median(samples: Sequence[float]) -> float:
    """The middle one; of an even number the mean of the two in the middle."""
    ordered = sorted(samples)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def percentile(samples: Iterable[float], percent: float) -> float:
    """The least sample that ``percent`` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def row(
    workload: str,
    metric: str,
    samples: Sequence[float],
    unit: str,
    against: tuple[str, Sequence[float]] | None = None,
    goal: Goal | None = None,
) -> Row:
    """One row of the report.

    :param samples: a figure for each repeat; the row has their median, and the least and the greatest.
    :param against: what it is compared with, and the figures of that from the same repeats.
    :param goal: what the ratio should be; with nothing to compare with, what the value should be.
    :returns: ``workload metric value unit spread ratio_to ratio ratio_spread goal met``; None for what
        it has not.
    """
    value = median(samples)
    to = ratio = ratio_spread = None
    if against is not None:
        to, base = against
        ratios = [ours / theirs if theirs else 0.0 for ours, theirs in zip(samples, base, strict=True)]
        ratio = median(ratios)
        ratio_spread = spread(ratios)
    met = None
    if goal is not None:
        sign, limit = goal
        figure = value if ratio is None else ratio
        met = figure >= limit if sign == AT_LEAST else figure <= limit if sign == AT_MOST else figure == limit
    return {
        "workload": workload,
        "metric": metric,
        "value": value,
        "unit": unit,
        "spread": spread(samples),
        "ratio_to": to,
        "ratio": ratio,
        "ratio_spread": ratio_spread,
        "goal": None if goal is None else f"{goal[0]} {goal[1]:g}",
        "met": met,
    }


def spread(samples: Sequence[float]) -> str | None:
    """``least–greatest``; None for a single sample."""
    if len(samples) < 2:
        return None
    return f"{figure(min(samples))}–{figure(max(samples))}"


def figure(value: float) -> str:
    """A number with three digits that count, and no exponent."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def interleave(repeats: int, steps: dict[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Run all steps in turn, ``repeats`` times: A B C A B C; what each returned, in order.

    A round before them warms everything equally (page cache, bytecode, branch predictors) and is thrown away.
    """
    results: dict[str, list[Any]] = {name: [] for name in steps}
    for number in range(-1, repeats):
        for name, step in steps.items():
            result = step()
            if number >= 0:
                results[name].append(result)
    return results


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table for docs/performance.md."""
    lines = [
        "| | measured | median | least–greatest | ratio | to | goal | |",
        "|---|---|---:|---|---:|---|---|---|",
    ]
    for found in rows:
        ratio = "" if found["ratio"] is None else figure(found["ratio"])
        if found["ratio_spread"]:
            ratio += f" ({found['ratio_spread']})"
        met = {None: "", True: "met", False: "**missed**"}[found["met"]]
        cells = [
            found["workload"],
            found["metric"].replace("|", "\\|"),
            f"{thousands(found['value'])} {found['unit']}",
            found["spread"] or "",
            ratio,
            (found["ratio_to"] or "").replace("|", "\\|"),
            found["goal"] or "",
            met,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def thousands(value: float) -> str:
    """As :func:`figure`, with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else figure(value)
