"""Finds the durability steps of the engine in its source, for the mutation gate.

A step is: a sync or a lock of the seam; a call of what is made of them (poisoning, adopting, quarantine,
syncing names); a comparison with a checksum, or a check of a header; a condition on the flags and generations
by which processes learn of each other's failures.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeGuard

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("pspf/disk/atomic.py", "pspf/format", "pspf/log", "pspf/store")
CALLS = {
    "fsync", "fdatasync", "update_times", "lock", "lock_soon", "lock_shared",
    "sync_ancestors", "_sync_parent", "lock_names",
    "adopt", "_adopt", "adopt_others", "read_stable", "poison", "poison_locked", "quarantine",
}  # fmt: skip
CHECKS = {"header_fault", "segment_fault", "_whole"}
CRC = re.compile(r"crc", re.IGNORECASE)
FLAGS = {"FLAG_POISONED", "FLAG_ROLLING", "FLAG_DELETED", "FLAG_DOUBT"}
FIELDS = {"poisoned", "generation"}
# Where flags are only shown to people.
SHOWN = ("pspf/store/describe.py", "pspf/store/inspect.py", "pspf/store/verify_partition.py")


class Step(NamedTuple):
    """A place in the source, and why it counts."""

    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}"


def _name(call: ast.Call) -> str:
    func = call.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _is_crc_check(node: ast.AST) -> TypeGuard[ast.Compare]:
    """A comparison, one side of which computes a CRC."""
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
        return False
    return any(isinstance(n, ast.Call) and CRC.search(_name(n)) for n in ast.walk(node)) or any(
        isinstance(n, ast.Name) and n.id == "crc" for n in ast.walk(node)
    )


def _conditions(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test


def steps_in(file: str, source: str) -> list[Step]:
    """Every step of one file."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node) in CALLS | CHECKS:
            found.append(Step(file, node.lineno, f"call of {_name(node)}"))
        elif _is_crc_check(node):
            found.append(Step(file, node.lineno, f"check of a CRC: {ast.unparse(node)[:60]}"))
    if file not in SHOWN:
        for test in _conditions(tree):
            for node in ast.walk(test):
                if isinstance(node, ast.Name) and node.id in FLAGS:
                    found.append(Step(file, node.lineno, f"condition on {node.id}"))
                elif isinstance(node, ast.Attribute) and node.attr in FIELDS:
                    found.append(Step(file, node.lineno, f"condition on .{node.attr}"))
    return sorted(set(found))


def all_steps() -> list[Step]:
    """Every step of the engine."""
    found = []
    for folder in FOLDERS:
        path = ROOT / folder
        for file in [path] if path.is_file() else sorted(path.glob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            found += steps_in(name, file.read_text())
    return found
