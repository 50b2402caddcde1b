"""The finder of our own modules does what Python's does, and gives way wherever something is unusual."""

from __future__ import annotations

import compileall
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pspf.cli.main import OwnModules
from tests.conftest import ROOT, clean_environment


@pytest.fixture
def copy(scratch_dir: Path) -> Path:
    """The package as an installation has it, with bytecode."""
    shutil.copytree(
        ROOT / "pspf", scratch_dir / "site" / "pspf", ignore=shutil.ignore_patterns("__pycache__", "cmds")
    )
    shutil.copytree(
        ROOT / "cmds", scratch_dir / "site" / "pspf" / "cmds", ignore=shutil.ignore_patterns("__pycache__")
    )
    compileall.compile_dir(scratch_dir / "site", quiet=2)
    return scratch_dir / "site"


def start(copy: Path, *options: str, env: dict[str, str] | None = None) -> str:
    script = "from pspf.cli.main import main\nmain()\n"
    ran = subprocess.run(
        [sys.executable, *options, "-c", script, "version"],
        env={
            **clean_environment(copy),
            "PYTHONPATH": str(copy),
            "PYTHONDONTWRITEBYTECODE": "1",
            **(env or {}),
        },
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def edit(copy: Path, seconds: int) -> None:
    """Change what ``pspf version`` prints, in as many bytes as before."""
    path = copy / "pspf" / "cmds" / "version.py"
    before = path.stat()
    text = path.read_text()
    assert 'print(f"pspf {' in text
    path.write_text(text.replace('print(f"pspf {', 'print(f"PSPF {'))
    os.utime(path, (before.st_mtime + seconds, before.st_mtime + seconds))


def test_a_source_that_was_changed_is_what_runs(copy: Path) -> None:
    assert start(copy).startswith("pspf ")
    edit(copy, seconds=10)
    assert start(copy).startswith("PSPF ")


def test_bytecode_is_what_runs_while_the_source_is_as_it_was(copy: Path) -> None:
    edit(copy, seconds=0)
    assert start(copy).startswith("pspf ")


def test_it_starts_without_bytecode(copy: Path) -> None:
    for cache in copy.rglob("__pycache__"):
        shutil.rmtree(cache)
    assert start(copy).startswith("pspf ")


@pytest.mark.parametrize("mode", ["checked-hash", "unchecked-hash"])
def test_it_starts_with_bytecode_of_another_kind(copy: Path, mode: str) -> None:
    import py_compile

    modes = py_compile.PycInvalidationMode
    kind = modes.CHECKED_HASH if mode == "checked-hash" else modes.UNCHECKED_HASH
    compileall.compile_dir(copy, quiet=2, force=True, invalidation_mode=kind)
    assert start(copy).startswith("pspf ")


def test_it_starts_with_bytecode_that_is_damaged_or_elsewhere(copy: Path, scratch_dir: Path) -> None:
    cached = Path(importlib.util.cache_from_source(str(copy / "pspf" / "cmds" / "version.py")))
    cached.write_bytes(cached.read_bytes()[:12])
    assert start(copy).startswith("pspf ")
    assert start(copy, "-O").startswith("pspf ")
    assert start(copy, env={"PYTHONPYCACHEPREFIX": str(scratch_dir / "elsewhere")}).startswith("pspf ")


def test_a_module_looks_as_if_python_had_found_it(copy: Path) -> None:
    for name in ("pspf.cli", "pspf.cli.fast", "pspf.cli._spec", "pspf.cmds.cat"):
        parent = [str(copy / Path(*name.split(".")[:-1]))]
        own = OwnModules.find_spec(name, parent)
        from importlib.machinery import PathFinder

        usual = PathFinder.find_spec(name, parent)
        assert own is not None and usual is not None
        for attribute in ("name", "origin", "cached", "has_location", "parent", "submodule_search_locations"):
            assert getattr(own, attribute) == getattr(usual, attribute), (name, attribute)


def test_modules_of_others_are_not_looked_at(copy: Path) -> None:
    assert OwnModules.find_spec("pspf", None) is None
    assert OwnModules.find_spec("pspfx.cli", [str(copy / "pspf")]) is None
    assert OwnModules.find_spec("pspf.missing", [str(copy / "pspf")]) is None
