"""Generated files are fresh, and what they say is well-formed and whole."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pspf.cli.app import GROUPS
from pspf.cli.completions import render
from pspf.cli.generate import ROOT as GENERATED_ROOT
from pspf.cli.generate import commands, main
from tests.conftest import ROOT

PAGES = sorted((ROOT / "man" / "man1").glob("*.1"))


def test_generated_files_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert GENERATED_ROOT == ROOT
    assert main(["--check"]) == 0, capsys.readouterr().out + "run: python -m pspf.cli.generate"


def test_each_command_has_a_page() -> None:
    names = [name for _, group in GROUPS for name in group]
    assert {page.name for page in PAGES} == {"pspf.1", *(f"pspf-{name}.1" for name in names)}


def test_each_command_module_is_a_command() -> None:
    modules = {path.stem for path in (ROOT / "cmds").glob("*.py")} - {"__init__"}
    assert modules == {name for _, group in GROUPS for name in group}


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed: make ci-tools")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_page_passes_mandoc_lint(page: Path) -> None:
    ran = subprocess.run(["mandoc", "-T", "lint", str(page)], capture_output=True, text=True, check=False)
    findings = []
    for line in ran.stdout.splitlines():
        missing = re.search(r"referenced manual not found: Xr (\S+) 1", line)
        # It looks among installed pages only; ours are beside this one.
        if not (missing and (page.parent / f"{missing[1]}.1").exists()):
            findings.append(line)
    assert not findings


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed: make ci-tools")
@pytest.mark.parametrize("name", sorted({entry.path[0] for entry in commands()}))
def test_man_page_shows_every_option_and_example(name: str) -> None:
    page = ROOT / "man" / "man1" / f"pspf-{name}.1"
    ran = subprocess.run(
        ["mandoc", "-T", "utf8", "-O", "width=200", str(page)], capture_output=True, text=True, check=True
    )
    shown = re.sub(".\b", "", ran.stdout)
    for entry in commands():
        if entry.path[0] == name:
            for option in entry.options:
                assert ", ".join(option.names) in shown
            for line, _ in entry.examples:
                assert line in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_command_prints_the_installed_file(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pspf.cli.main import Invocation
    from pspf.cmds.completion import completion

    completion(Invocation(), shell)  # type: ignore[arg-type]
    assert capsys.readouterr().out == render(shell, commands())
