"""The wheel holds what a user needs. A mistake in pyproject.toml would lose the commands without a word."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.xdist_group("wheel")


def names_of(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def under(folder: str, target: str, pattern: str = "*") -> set[str]:
    """The files of ``folder`` by the names that they have below ``target``."""
    paths = (ROOT / folder).rglob(pattern)
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_module_is_in_the_wheel_and_commands_under_the_name_that_is_imported(wheel: Path) -> None:
    modules = {name for name in under("pspf", "pspf", "*.py") if not name.startswith("pspf/cmds/")}
    commands = under("cmds", "pspf/cmds", "*.py")
    assert len(commands) > 5
    code = {name for name in names_of(wheel) if name.endswith(".py")}
    assert code == modules | commands
    assert "pspf/py.typed" in names_of(wheel)


@pytest.mark.parametrize(
    ("folder", "target"),
    [
        ("man", "share/man"),
        ("shell-completions/bash", "share/bash-completion/completions"),
        ("shell-completions/zsh", "share/zsh/site-functions"),
        ("shell-completions/fish", "share/fish/vendor_completions.d"),
    ],
)
def test_man_pages_and_completions_are_where_shells_and_man_look(
    wheel: Path, folder: str, target: str
) -> None:
    expected = under(folder, f"pspf_streams-0.1.0.data/data/{target}")
    assert expected
    assert {name for name in names_of(wheel) if f"/data/{target}/" in name} == expected


def test_the_command_is_a_script_of_three_lines(wheel: Path) -> None:
    # pip writes the path of its Python in place of "#!python". An entry point would cost an import of `re`.
    archive = zipfile.ZipFile(wheel)
    entry = archive.getinfo("pspf_streams-0.1.0.data/scripts/pspf")
    assert archive.read(entry) == b"#!python\nfrom pspf.cli.main import main\nmain()\n"
    assert (entry.external_attr >> 16) & 0o777 == 0o755
    assert not [name for name in archive.namelist() if name.endswith("entry_points.txt")]


def test_a_wheel_built_from_the_source_archive_is_the_same(wheel: Path, tmp_path: Path) -> None:
    # The source archive has no link pspf/cmds.
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path), "-t"]
    subprocess.run([*build, "sdist"], cwd=ROOT, check=True, capture_output=True)
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / source.name.removesuffix(".tar.gz")
    assert not (unpacked / "pspf" / "cmds").exists()
    subprocess.run([*build, "wheel"], cwd=unpacked, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    assert names_of(again) == names_of(wheel)
