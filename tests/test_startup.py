"""What a start costs. A command in a shell loop is a start a record.

Counted in instructions, which are the same on a busy machine and on an idle one, and measured on the command
as a user has it: a wheel in an environment of its own, with bytecode.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment

pytestmark = pytest.mark.xdist_group("wheel")

BUDGET = 1.25
"""Instructions of one `append` or `cat` of one record, as a multiple of `python -c pass`."""

ALLOWED_MODULES = ROOT / "tests" / "startup_modules.txt"

COMMANDS = {"append": ["append", "t"], "cat": ["cat", "t"]}


class Installed:
    """PSPF from the wheel, with a store that holds one record in the uncompressed topic ``t``."""

    def __init__(self, directory: Path, wheel: Path) -> None:
        environment = directory / "venv"
        venv.create(environment, symlinks=True)
        self.python = environment / "bin" / "python"
        self.script = environment / "bin" / "pspf"
        pip = [sys.executable, "-m", "pip", "--python", str(self.python)]
        subprocess.run(
            [*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir", str(wheel)], check=True
        )
        link_requirements(next((environment / "lib").glob("python3*")) / "site-packages")

        home = directory / "home"
        home.mkdir()
        self.log = directory / "log"
        self.environment = {
            **clean_environment(home),
            "PSPF_STORE": str(directory / "store"),
            "PYTHONHASHSEED": "0",
        }
        self.run([self.script, *COMMANDS["append"]])
        assert self.run([self.script, *COMMANDS["cat"]]).stdout == b"x\n"

    def run(self, argv: list[str | Path]) -> subprocess.CompletedProcess[bytes]:
        ran = subprocess.run(
            argv, input=b"x\n", env=self.environment, cwd=self.log.parent, capture_output=True, check=False
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return ran

    def instructions(self, argv: list[str | Path]) -> int:
        """Instructions that ``python ARGV`` executes in user space, in all."""
        valgrind = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            f"--log-file={self.log}",
        ]
        self.run([*valgrind, self.python, *argv])
        found = re.search(r"Collected : (\d+)", self.log.read_text())
        assert found, self.log.read_text()
        return int(found[1])

    def modules(self, argv: list[str | Path]) -> set[str]:
        """Modules that ``python ARGV`` imports."""
        lines = self.run([self.python, "-X", "importtime", *argv]).stderr.decode().splitlines()
        return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def link_requirements(site_packages: Path) -> None:
    """Give an environment the runtime dependencies of this one, without a network."""
    for name in re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            target = Path(str(distribution.locate_file(top)))
            if top != "__pycache__" and not (site_packages / top).exists():
                (site_packages / top).symlink_to(target)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.skipif(
    not shutil.which("valgrind"), reason="instructions are counted by valgrind: make ci-tools"
)
@pytest.mark.parametrize("command", COMMANDS)
def test_one_record_costs_little_more_than_an_empty_python(installed: Installed, command: str) -> None:
    nothing = installed.instructions(["-c", "pass"])
    something = installed.instructions([installed.script, *COMMANDS[command]])
    ratio = something / nothing
    print(f"{command}: {something / 1e6:.1f} million instructions, {ratio:.3f} times `python -c pass`")
    assert ratio <= BUDGET, f"{something:,} instructions against {nothing:,}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_start_imports_only_what_is_listed(installed: Installed, command: str) -> None:
    lines = ALLOWED_MODULES.read_text().splitlines()
    allowed = {line for line in lines if line and not line.startswith("#")}
    # What Python itself loads differs between its versions.
    allowed |= installed.modules(["-c", "pass"])
    extra = installed.modules([installed.script, *COMMANDS[command]]) - allowed
    assert not extra, f"not in {ALLOWED_MODULES.name}: {' '.join(sorted(extra))}"


def test_the_installed_command_has_its_bytecode(installed: Installed) -> None:
    # Also where PYTHONDONTWRITEBYTECODE is set, so that no start would ever write it.
    (package,) = (installed.python.parent.parent / "lib").glob("python3*/site-packages/pspf")
    for source in package.rglob("*.py"):
        cached = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        assert cached.exists(), f"{source} has no bytecode"
