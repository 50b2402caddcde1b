"""No durability step of the engine can be lost unnoticed: each is in the table of mutants, with a test.

`make faults` runs each mutant against the test that is named for it, `make soak` against the whole fast
suite.
"""

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.durability_steps import all_steps, steps_in
from tests.mutants import MUTANTS
from tests.mutation import ROOT, function_node, lines_of, mutated_code, run_tests, source_of
from tests.support_figures import Figure

if TYPE_CHECKING:
    from tests.soak import Slice, Work

PARTS = 8


def test_every_durability_step_of_the_engine_is_in_the_table() -> None:
    covered: dict[str, set[int]] = {}
    for mutant in MUTANTS:
        covered.setdefault(mutant.file, set()).update(lines_of(mutant))
    missing = [step for step in all_steps() if step.line not in covered.get(step.file, ())]
    assert not missing, "add a mutant to tests/mutants_*.py for each of:\n" + "\n".join(map(str, missing))


def test_a_new_durability_step_would_be_found() -> None:
    source = (
        "def f(disk, fd, crc, data):\n    disk.fsync(fd)\n    if crc32(data) != crc:\n        poison(1)\n"
    )
    assert [(step.line, step.why.split()[0]) for step in steps_in("f.py", source)] == [
        (2, "call"),
        (3, "check"),
        (4, "call"),
    ]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_a_mutant_is_what_it_says(number: int) -> None:
    """It can be made, is another function than the engine's, and names a test that exists."""
    mutant = MUTANTS[number]
    module = compile(source_of(mutant.file), mutant.file, "exec")
    code = module
    for part in mutant.name.split("."):
        code = next(c for c in code.co_consts if getattr(c, "co_name", "") == part)
    assert mutated_code(mutant).co_code != code.co_code or mutated_code(mutant).co_consts != code.co_consts
    assert function_node(source_of(mutant.file), mutant.name)
    file, _, test = mutant.test.partition("::")
    assert f"def {test.partition('[')[0]}(" in source_of(f"tests/{file}")


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_mutant_is_caught_by_its_test(part: int, figure: Figure) -> None:
    numbers = range(part, len(MUTANTS), PARTS)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.mutation", "--number", *map(str, numbers)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count(" caught ") == len(numbers)
    figure("mutants of the engine, caught", len(numbers))


def soak_mutants(part: "Slice") -> int:
    """One mutant against the whole fast suite, which must notice it without being told where to look."""
    if part.number >= len(MUTANTS):
        return 0
    mutant = MUTANTS[part.number]
    fast = "not faults and not soak and not slow"
    verdict = run_tests(["tests", "-x", "-m", fast, "--ignore=tests/test_mutation_gate.py"], mutant)
    print(mutant, *verdict.failed, sep="\n")
    assert verdict.caught, verdict.told
    return 1


SOAK: "dict[str, Work]" = {"mutants of the engine, caught": soak_mutants}
