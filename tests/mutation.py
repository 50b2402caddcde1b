"""The mutation gate: take one durability step out of the engine, and see that the test named for it fails.

    .venv-dev/bin/python -m tests.mutation                    # every mutant against its test
    .venv-dev/bin/python -m tests.mutation --only pspf/log/roll.py
    .venv-dev/bin/python -m tests.mutation --find NUMBER...   # which tests notice it?

A mutant replaces a piece of one function's source; the function's code object is exchanged in a forked child,
in which pytest then runs. So nothing on disk changes, and modules that hold the function see the mutant, too.
The table is in :mod:`tests.mutants`, and ``tests/test_mutation_gate.py`` also finds durability steps of the
engine that no entry of the table covers.
"""

import argparse
import ast
import importlib
import io
import os
import re
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIRST_TO_LOOK = (
    "tests/test_crash_states.py",
    "tests/test_decision_table_files.py",
    "tests/test_producers.py",
    "tests/test_damage.py",
    "tests/test_verify.py",
    "tests/test_library.py",
    "tests/test_format_fuzz.py",
)
# A mutant whose code does not run at all proves nothing.
NO_PROOF = re.compile(r"\b(NameError|UnboundLocalError|SyntaxError|AttributeError: 'NoneType')\b")


class Mutant(NamedTuple):
    """One step, and how it is taken out.

    :param where: ``path/of/file.py:qualified.name`` of the function.
    :param cut: text of its source; it stands there once.
    :param put: what stands there instead.
    :param test: pytest's name of the test that must fail, without ``tests/``.
    """

    where: str
    cut: str
    put: str
    test: str

    @property
    def file(self) -> str:
        return self.where.partition(":")[0]

    @property
    def name(self) -> str:
        return self.where.partition(":")[2]

    def __str__(self) -> str:
        cut, put = (" ".join(text.split()) for text in (self.cut, self.put))
        return f"{self.where}: {cut[:80]!r} -> {put[:80]!r}"


def source_of(file: str) -> str:
    return (ROOT / file).read_text()


def function_node(source: str, name: str) -> "ast.FunctionDef | ast.AsyncFunctionDef":
    """The definition of a qualified name."""
    scope: ast.AST = ast.parse(source)
    for part in name.split("."):
        scope = next(
            node
            for node in ast.iter_child_nodes(scope)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == part
        )
    assert isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef)
    return scope


def span_of(mutant: Mutant, source: str) -> "tuple[int, int]":
    """Where in the source the cut text stands.

    :raises AssertionError: not once.
    """
    node = function_node(source, mutant.name)
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    start = sum(map(len, lines[: node.lineno - 1]))
    end = sum(map(len, lines[: node.end_lineno]))
    count = source.count(mutant.cut, start, end)
    assert count == 1, f"{mutant}: the text stands there {count} times"
    at = source.index(mutant.cut, start, end)
    return at, at + len(mutant.cut)


def lines_of(mutant: Mutant) -> range:
    """The lines of the source, from 1, that the mutant takes out."""
    source = source_of(mutant.file)
    start, end = span_of(mutant, source)
    return range(source.count("\n", 0, start) + 1, source.count("\n", 0, end) + 2)


def mutated_code(mutant: Mutant) -> CodeType:
    """The function's code with the step taken out."""
    source = source_of(mutant.file)
    start, end = span_of(mutant, source)
    module = compile(source[:start] + mutant.put + source[end:], mutant.file, "exec")
    code = module
    for part in mutant.name.split("."):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == part)
    return code


def apply(mutant: Mutant) -> None:
    """Exchange the code of the function in this process, for good."""
    found: Any = importlib.import_module(mutant.file.removesuffix(".py").replace("/", "."))
    for part in mutant.name.split("."):
        found = vars(found)[part]
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    assert isinstance(found, FunctionType), mutant
    found.__code__ = mutated_code(mutant)


class Verdict(NamedTuple):
    """What the tests said to a mutant."""

    caught: bool
    seconds: float
    told: str
    failed: "list[str]"


class _Failures:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.texts: list[str] = []
        self.ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran += report.when == "call"
        if report.failed:
            self.names.append(report.nodeid)
            self.texts.append(str(report.longrepr))


def run_tests(args: "list[str]", mutant: "Mutant | None") -> Verdict:
    """Run pytest in a forked child with the mutant applied."""
    read_end, write_end = os.pipe()
    began = time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            told = _in_child(args, mutant)
        except BaseException:
            told = "error\n\n" + traceback.format_exc()
        with open(write_end, "wb") as pipe:
            pipe.write(told.encode("utf-8", "backslashreplace"))
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(pid, 0)
    verdict, _, rest = told.partition("\n")
    failed, _, text = rest.partition("\n\n")
    return Verdict(verdict == "caught", time.monotonic() - began, text, failed.split("\n") if failed else [])


def _in_child(args: "list[str]", mutant: "Mutant | None") -> str:
    os.chdir(ROOT)
    if mutant is not None:
        apply(mutant)
    failures = _Failures()
    out = io.StringIO()
    options = ["-q", "-p", "no:cacheprovider", "-n", "0", "--timeout=100"]
    with redirect_stdout(out), redirect_stderr(out):
        status = pytest.main([*options, *args], plugins=[failures])
    text = "\n".join(failures.texts)[-6_000:]
    names = "\n".join(failures.names)
    if status == pytest.ExitCode.OK:
        return f"survived\n{names}\n\n{failures.ran} tests passed"
    if status != pytest.ExitCode.TESTS_FAILED or not failures.ran:
        return f"error\n{names}\n\n{out.getvalue()[-6_000:]}"
    if NO_PROOF.search(text):
        return f"error\n{names}\n\nthe mutant does not run:\n{text}"
    return f"caught\n{names}\n\n{text}"


def preload() -> None:
    """Import what every child needs, once."""
    import hypothesis  # noqa: F401

    for file in sorted((ROOT / "pspf").glob("*/*.py")):
        if file.parent.name in ("disk", "format", "log", "store", "testing", "wake"):
            importlib.import_module(f"pspf.{file.parent.name}.{file.stem}")


def main() -> int:
    """The command line; see the module."""
    from tests.mutants import MUTANTS

    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--only", help="mutants whose place begins so")
    parser.add_argument("--number", type=int, nargs="*", help="mutants by their number")
    parser.add_argument("--find", action="store_true", help="run many tests until one notices")
    args = parser.parse_args()
    preload()
    chosen = [
        (number, mutant)
        for number, mutant in enumerate(MUTANTS)
        if (not args.only or mutant.where.startswith(args.only))
        and (not args.number or number in args.number)
    ]
    survivors = 0
    for number, mutant in chosen:
        tests = [f"tests/{mutant.test}"]
        if args.find:
            tests = [*FIRST_TO_LOOK, "-x", "-m", "not faults and not soak and not slow"]
        verdict = run_tests(tests, mutant)
        survivors += not verdict.caught
        told = "caught" if verdict.caught else "NOT CAUGHT"
        print(f"{number:>3} {told:<10} {verdict.seconds:5.1f} s  {mutant}", flush=True)
        if args.find:
            print(f"      by {' '.join(verdict.failed)}", flush=True)
        if not verdict.caught:
            print("      " + verdict.told.strip()[-700:].replace("\n", "\n      "), flush=True)
    print(f"{len(chosen)} mutants, {survivors} not caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
