"""The rules of ARCHITECTURE.md and CONTRIBUTING.md that a program can check, on the source itself.

Imports are read from the syntax tree, those inside functions too, so that nothing has to be installed or run.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only from its own floor or from one below.
FLOORS = {
    "errors": 0, "model": 0,
    "disk": 1,
    "format": 2,
    # wake stands below store, since `Store.tail` waits; it needs nothing of PSPF but errors.
    "log": 3, "wake": 3,
    "store": 4,
    "group": 5,
    "state": 6, "connect": 6,
    "stream": 7, "aio": 7,
    # The package itself, `pspf.open`: whoever stands above the library may use it as a user does.
    "": 7,
    "wire": 8, "meta": 8, "cluster": 8,
    "observe": 9, "server": 9, "bench": 9, "tui": 9, "templates": 9,
    "cli": 10, "cmds": 10,
    # For the tests of users; nothing in PSPF stands on it.
    "testing": 11,
}  # fmt: skip

# Calls that reach the file system. Only disk/ may make them, where a simulated disk can take its place.
FILE_CALLS = frozenset(
    """chmod chown copy_file_range fallocate fchmod fchown fdatasync fsync ftruncate link makedirs mkdir
    mkfifo mknod open openat posix_fallocate pread preadv pwrite pwritev remove removedirs removexattr rename
    renames replace rmdir sendfile setxattr splice symlink sync truncate unlink utime write writev""".split()
)
# Methods of pathlib.Path that do the same; the names are not shared with anything of ours.
PATH_CALLS = frozenset("read_bytes read_text write_bytes write_text touch".split())
FILE_MODULES = frozenset("fcntl mmap shutil tempfile".split())
OS_MODULES = frozenset("io nt os posix".split())

# Who may make which of them all the same, and why. A folder speaks for what is in it.
ALLOWED = {
    "pspf/disk/": FILE_CALLS | PATH_CALLS | FILE_MODULES,  # the seam
    "pspf/testing/": FILE_CALLS | PATH_CALLS | FILE_MODULES,  # stands in for the seam
    "pspf/state/": FILE_CALLS | PATH_CALLS | FILE_MODULES,  # engines bring their own files
    "pspf/bench/": FILE_CALLS | PATH_CALLS | FILE_MODULES,  # measures what the machine can do without PSPF
    "pspf/templates/": FILE_CALLS | PATH_CALLS | FILE_MODULES,  # the programs of users
    "pspf/cli/generate": FILE_CALLS | PATH_CALLS,  # writes into the checkout, for its developers
    # Who cannot open a file can only write to the standard streams.
    "pspf/cli/": {"write", "writev"},
    "cmds/": {"write", "writev"},
    "pspf/store/emit.py": {"write", "writev"},
    "pspf/cli/descriptors.py": {"open"},  # /dev/null, for standard streams that are closed
    "pspf/cli/main.py": {"open"},  # reads PSPF's own bytecode
    "pspf/cli/help.py": {"shutil"},  # the width of the terminal
    "pspf/store/feed.py": {"fcntl", "open"},  # reads the user's files and pipes
    "pspf/store/lifecycle.py": {"open"},  # reads a file that the user names
    "pspf/store/location.py": {"open"},  # reads configuration files
    "pspf/store/init.py": {"chmod", "chown", "open"},  # whose the store is; reads the table of mounts
    "pspf/wake/polling.py": {"write"},  # to its own pipe
}

FORBIDDEN_NAMES = frozenset({"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common"})
MAX_LINES = 600


class Import(NamedTuple):
    line: int
    target: str
    at_start: bool
    """Runs when the module is imported: not inside a function, not for type checkers only."""


class Module(NamedTuple):
    name: str
    path: Path
    tree: ast.Module

    @property
    def where(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def read_modules() -> dict[str, Module]:
    found = {}
    for folder, prefix in (("pspf", "pspf"), ("cmds", "pspf.cmds")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "pspf" and parts[0] == "cmds":
                continue  # the link to cmds/
            if parts[-1] == "__init__":
                parts = parts[:-1]
            name = ".".join((prefix, *parts))
            found[name] = Module(name, path, ast.parse(path.read_bytes(), str(path)))
    return found


MODULES = read_modules()


def is_for_type_checkers(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def imports_of(module: Module) -> Iterator[Import]:
    """Every import of PSPF by PSPF; ``from pspf.log import writer`` counts as one of ``pspf.log.writer``.

    ``import pspf`` alone needs nothing, as the package is there before any of its modules. What it is for
    counts: ``pspf.errors.Usage`` imports ``pspf.errors`` when it is reached.
    """

    def visit(node: ast.AST, at_start: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name != "pspf":
                    yield Import(node.lineno, alias.name, at_start)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pspf."):
            target = ast.unparse(node)
            while target not in MODULES:
                target = target.rpartition(".")[0]
            yield Import(node.lineno, target, at_start)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.package.split(".")
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(node.lineno, full if full in MODULES else base, at_start)
        elif isinstance(node, ast.If) and is_for_type_checkers(node.test):
            for statement in node.body:
                yield from visit(statement, False)
            for statement in node.orelse:
                yield from visit(statement, at_start)
        else:
            inside = at_start and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside)

    for found in visit(module.tree, True):
        if found.target.split(".")[0] == "pspf":
            yield found


def floor_of(name: str) -> int | None:
    return FLOORS.get(name.split(".")[1] if "." in name else "")


def assert_none(wrong: Iterable[str]) -> None:
    """Fail with one line for each place that breaks the rule."""
    text = "\n".join(wrong)
    assert not text, "\n" + text


def test_every_module_stands_on_a_floor() -> None:
    assert_none(module.where for module in MODULES.values() if floor_of(module.name) is None)


def test_no_module_imports_from_a_floor_above() -> None:
    wrong = []
    for module in MODULES.values():
        for found in imports_of(module):
            own, other = floor_of(module.name), floor_of(found.target)
            if own is not None and other is not None and other > own:
                wrong.append(f"{module.where}:{found.line}: floor {own} needs {found.target}, floor {other}")
    assert_none(wrong)


def test_every_import_of_ours_exists() -> None:
    wrong = [
        f"{module.where}:{found.line}: {found.target}"
        for module in MODULES.values()
        for found in imports_of(module)
        if found.target not in MODULES
    ]
    assert_none(wrong)


@pytest.mark.parametrize(
    ("importer", "source", "target"),
    [
        ("pspf.log.writer", "import pspf.store.topic", "pspf.store.topic"),
        ("pspf.log.writer", "from pspf.store import topic", "pspf.store"),
        ("pspf.log.writer", "from ..store.topic import Topic", "pspf.store.topic"),
        ("pspf.log.writer", "def f():\n    from pspf.store.topic import Topic", "pspf.store.topic"),
        ("pspf.log.writer", "import pspf\npspf.store.topics.Topics", "pspf.store.topics"),
        ("pspf.log.writer", "import pspf\npspf.open('s')", "pspf"),
        ("pspf.log.writer", "try:\n    import pspf.store\nexcept ImportError:\n    pass", "pspf.store"),
    ],
)
def test_an_upward_import_is_seen(importer: str, source: str, target: str) -> None:
    (found,) = imports_of(Module(importer, ROOT / "pspf/log/writer.py", ast.parse(source)))
    assert found.target == target and (floor_of(target) or 0) > (floor_of(importer) or 0)


def test_no_two_modules_import_each_other() -> None:
    needs = {
        name: {found.target for found in imports_of(MODULES[name]) if found.at_start} for name in MODULES
    }
    cycles = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            cycles.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for other in sorted(needs[name] & MODULES.keys() - {name}):
                walk(other, [*path, name])
            done.add(name)

    for name in needs:
        walk(name, [])
    assert_none(cycles)


def test_only_the_disk_floor_touches_files() -> None:
    wrong = []
    for module in MODULES.values():
        allowed = set().union(*(ALLOWED[place] for place in ALLOWED if module.where.startswith(place)))
        found = [(line, call) for line, call in file_calls(module) if call not in allowed]
        wrong += [f"{module.where}:{line}: {call}" for line, call in found]
    assert_none(wrong)


def file_calls(module: Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that opens, writes, syncs, renames, locks or removes."""
    # `open` at the top of a module is its own function from there on (`pspf.open`).
    own_names = {node.name for node in module.tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in FILE_MODULES:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module in FILE_MODULES:
                yield node.lineno, node.module
            elif node.module in OS_MODULES:
                for alias in node.names:
                    if alias.name in FILE_CALLS:
                        yield node.lineno, alias.name
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in OS_MODULES and node.attr in FILE_CALLS:
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in PATH_CALLS:
                yield node.lineno, node.func.attr
        elif isinstance(node, ast.Name) and node.id == "open" and "open" not in own_names:
            yield node.lineno, "open"


@pytest.mark.parametrize(
    "source",
    [
        "open('f', 'w')",
        "import os\nos.write(3, b'')",
        "from os import fsync",
        "from fcntl import flock",
        "import shutil",
        "import io\nio.open('f')",
        "path.write_bytes(b'')",
        "def f():\n    import os\n    os.rename('a', 'b')",
    ],
)
def test_a_write_past_the_disk_floor_is_seen(source: str) -> None:
    assert list(file_calls(Module("pspf.log.x", ROOT / "pspf/log/x.py", ast.parse(source))))


def test_formats_know_no_file_and_no_clock() -> None:
    forbidden = {"asyncio", "io", "os", "pathlib", "posix", "random", "select", "socket", "time"}
    wrong = []
    for module in MODULES.values():
        if module.name.startswith("pspf.format"):
            for node in ast.walk(module.tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                wrong += [f"{module.where}: {name}" for name in names if name.split(".")[0] in forbidden]
    assert_none(wrong)


def test_the_commands_are_imported_under_one_name() -> None:
    # With the checkout on the path, `import cmds` would work too, and every command would exist twice.
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "sys.exit('cmds' in sys.modules)"
    )
    names = [name for name in MODULES if floor_of(name) == FLOORS["cmds"]]
    ran = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "cmds" not in sys.modules


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.where)
def test_a_module_says_what_it_is_for_and_stays_readable(module: Module) -> None:
    assert ast.get_docstring(module.tree), "opens without a docstring"
    lines = module.path.read_bytes().count(b"\n")
    assert lines <= MAX_LINES
    assert not FORBIDDEN_NAMES & set(module.name.split("."))


def documents() -> Iterator[Path]:
    for pattern in ("*.md", "Makefile", "pyproject.toml", ".ci/run"):
        yield from ROOT.glob(pattern)
    for folder in ("cmds", "docs", "examples", "man", "pspf", "scripts", "shell-completions"):
        for path in (ROOT / folder).rglob("*"):
            # Examples bring data, too; text has no NUL.
            if path.is_file() and "__pycache__" not in path.parts and b"\0" not in path.read_bytes()[:8192]:
                yield path


def test_no_document_installs_the_package_of_a_stranger() -> None:
    # `pspf` is taken on the package index. The distribution is pspf-streams; only the import is pspf.
    installer = r"(?:(?:pip3?|pipx|uv|tool|poetry|pdm)\s+(?:install|add|inject)|(?:pipx|tool)\s+run|uvx)"
    command = re.compile(rf"""\b{installer}\s+(?:-\S+\s+)*["']?pspf(?![\w.-])""")
    assert command.search("pip install -U 'pspf[tui]'") and not command.search("pip install pspf-streams")
    wrong = []
    for path in documents():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if command.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert_none(wrong)
