"""What the README shows is what happens: its console blocks, its Python, and the demo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Pspf

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def console_blocks() -> list[str]:
    return re.findall(r"^```console\n(.*?)^```", README, re.M | re.S)


def steps(block: str) -> list[tuple[str, str]]:
    """Each command of a block, and what it is said to print."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        found.append((command, output))
    return found


def test_there_is_something_to_check() -> None:
    assert len(console_blocks()) >= 2
    assert sum(len(steps(block)) for block in console_blocks()) >= 12


@pytest.mark.parametrize("block", console_blocks(), ids=lambda block: block.split("\n", 1)[0][:30])
def test_each_line_of_the_readme_works_as_printed(block: str, pspf: Pspf, store_dir: Path) -> None:
    environment = {**pspf.environment(), "PSPF_STORE": str(store_dir / "store")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command, expected in steps(block):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=store_dir,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout == expected, command


def test_the_python_of_the_readme_runs(store_dir: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=store_dir,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1001 and lines[0].endswith("b'cellar' b'{\"t\": 21.5}'")


def test_the_demo_kills_a_writer_and_each_flight_is_there_once(pspf: Pspf, store_dir: Path) -> None:
    environment = {**pspf.environment(), "DEMO_DIR": str(store_dir)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(ROOT / "examples/flights/demo.sh")],
        cwd=store_dir,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the writer is dead; acknowledged and stored:" in done.stdout
    assert "the same 4334 flights, each exactly once" in done.stdout
    assert "through the kill, each once" in done.stdout


def test_no_link_of_the_readme_is_dead() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README + (ROOT / "ARCHITECTURE.md").read_text()):
        assert (ROOT / target).exists(), target
