"""The figures that the crash and fault tests must reach: what they did is counted, and shown in one table.

A test says ``figure("SIGKILL rounds", 300)``; several tests add up. At the end of ``make faults`` the table
shows each figure beside what is required, and the run fails when one is not reached. ``make soak`` has its
own, larger ones in the same table; see :mod:`tests.soak`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from pspf.testing.scenarios import SCENARIOS
from pspf.testing.scenarios_together import TOGETHER
from tests.mutants import MUTANTS

STATES = "crash states: "
MET = "crash states, processes that meet: "


class Required(NamedTuple):
    """What is required of one figure, by ``make faults`` and by ``make soak``; 0 if it is not asked for."""

    faults: int
    soak: int
    unit: str


FIGURES = {
    **{STATES + name: Required(250, 5_000, "ends") for name in SCENARIOS},
    **{MET + name: Required(250, 5_000, "ends") for name in TOGETHER},
    "SIGKILL at random instants": Required(300, 10_000, "rounds"),
    "power cuts of ext4 and xfs": Required(40, 1_000, "rounds"),
    "every call fails with every error": Required(1_500, 0, "places"),
    "a file may not grow past every byte": Required(4_000, 0, "limits"),
    "every bit of a closed log": Required(60_000, 0, "bits"),
    "bits of a closed log, by command": Required(50, 0, "bits"),
    "random damage to a larger log": Required(500, 20_000, "rounds"),
    "a live store copied with cp": Required(20, 1_000, "copies"),
    "eight writers and eight followers": Required(60, 3_600, "seconds"),
    "store against a model, with crashes": Required(1_000, 200_000, "steps"),
    "parsers of foreign bytes": Required(20_000, 10_000_000, "inputs each"),
    "mutants of the engine, caught": Required(len(MUTANTS), len(MUTANTS), "mutants"),
    "memory of a pipe": Required(512, 10_240, "MiB"),
}
"""By name, in the order of the table."""

Figure = Callable[[str, int], None]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """``figure(name, reached)``: what this test did, for the table."""

    def reached(name: str, count: int) -> None:
        assert name in FIGURES, f"no such figure: {name}"
        request.node.user_properties.append(("figure", (name, count)))

    return reached


def table(rows: Iterable[tuple[str, int, int, str]]) -> list[str]:
    """Lines of the table: name, reached, required, unit."""
    lines = [f"{'figure':<62} {'reached':>12} {'required':>12}"]
    for name, reached, required, unit in rows:
        verdict = "" if reached >= required else "   <- not reached"
        lines.append(f"{name:<62} {reached:>12,} {required:>12,} {unit}{verdict}")
    return lines


def _reached(config: pytest.Config) -> dict[str, int]:
    found: dict[str, int] = {}
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("passed", []) if reporter else []:
        if report.when == "call":
            for kind, value in report.user_properties:
                if kind == "figure":
                    found[value[0]] = found.get(value[0], 0) + value[1]
    return found


def _is_whole(config: pytest.Config) -> bool:
    """All of the fault tests run, so that every figure is due."""
    return config.option.markexpr == "faults" and not config.option.keyword and not config.option.file_or_dir


def _missed(config: pytest.Config) -> list[str]:
    reached = _reached(config)
    return [name for name, required in FIGURES.items() if reached.get(name, 0) < required.faults]


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if _is_whole(config) and session.exitstatus == pytest.ExitCode.OK and _missed(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reached = _reached(config)
    if not reached:
        return
    terminalreporter.section("figures")
    whole = _is_whole(config)
    rows = [
        (name, reached.get(name, 0), required.faults, required.unit)
        for name, required in FIGURES.items()
        if name in reached or (whole and required.faults)
    ]
    for line in table(rows):
        terminalreporter.line(line)
