"""A mistyped command line: exit 2, one line, and a hint that helps; and what help says."""

from __future__ import annotations

import pytest

from pspf.cli.app import GROUPS
from pspf.cli.generate import commands
from pspf.cli.table import Command
from tests.conftest import Pspf

MISTAKES = {
    "pspf apend t": "did you mean pspf append?",
    "pspf frobnicate": "pspf --help",
    "pspf create t": "did you mean pspf topic create?",
    "pspf topic crate t": "did you mean pspf topic create",
    "pspf append": "pspf append [OPTIONS] TOPIC [FILE…]",
    "pspf append t --jsn": "did you mean --json",
    "pspf append t -0 -D ,": "give one of them",
    "pspf append t -D": "pspf append --help",
    "pspf append t -H nothing": "-H source=web",
    "pspf append t -K \\q": "the escapes are",
    "pspf append t --durability fast": "pspf append --help",
    "pspf append t -p -1": "pspf append --help",
    "pspf tail -5 t": "pspf tail -n 5 TOPIC",
    "pspf tail -n five t": "-n 20",
    "pspf cat t -o --json": "-o start --json",
    "pspf cat t -c many": "pspf cat --help",
    "pspf cat t u": "pspf cat --help",
    "pspf ls --store=": "pspf -s DIR",
    "pspf ls --no-such": "pspf ls --help",
    "pspf ls --json=yes": "pspf ls --help",
    "pspf topic alter t": "pspf topic alter t --durability interval",
    "pspf topic create t --segment-bytes huge": "--segment-bytes 64MiB",
    "pspf completion tcsh": "pspf completion --help",
    "pspf help frobnicate": "pspf --help",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_is_one_line_with_a_hint_and_exit_2(pspf: Pspf, line: str) -> None:
    words = line.split(" ")[1:]
    ran = pspf(*words)
    error = ran.stderr.decode().splitlines()
    assert ran.returncode == 2, error
    assert not ran.stdout
    assert len(error) == 2, error
    assert error[0].startswith("pspf: ")
    assert error[1].startswith("hint: ")
    assert MISTAKES[line] in error[1]


def test_mistake_creates_no_store(pspf: Pspf) -> None:
    pspf("append", "t", "-0", "-D", ",")
    pspf("append", "t", "-H", "nothing")
    pspf("topic", "create", "t", "--segment-bytes", "huge")
    assert not list(pspf.home.iterdir())


def test_without_a_command_the_overview_goes_to_standard_error(pspf: Pspf) -> None:
    for words in ([], ["topic"], ["-q"]):
        ran = pspf(*words)
        assert ran.returncode == 2
        assert not ran.stdout
        assert b"usage: pspf" in ran.stderr


def test_control_bytes_of_a_mistake_do_not_reach_the_terminal(pspf: Pspf) -> None:
    ran = pspf("ls", "--\x1b[31m\nred")
    assert ran.returncode == 2
    assert b"\x1b" not in ran.stderr
    assert ran.stderr.count(b"\n") == 2


@pytest.mark.parametrize("entry", commands(), ids=lambda entry: entry.name)
def test_help_names_every_option_and_example(pspf: Pspf, entry: Command) -> None:
    ran = pspf(*entry.path, "--help")
    assert ran.returncode == 0
    shown = ran.stdout.decode()
    for option in entry.options:
        assert option.label() in shown
    for line, meaning in entry.examples:
        assert line in shown
        assert meaning.split()[-1] in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert pspf("help", *entry.path).stdout == ran.stdout
    assert pspf(*entry.path, "-h").stdout == ran.stdout


def test_overview_names_every_command(pspf: Pspf) -> None:
    shown = pspf("--help").stdout.decode()
    for heading, names in GROUPS:
        assert f"{heading}:" in shown
        for name in names:
            assert f"  {name} " in shown
    assert pspf("help").stdout.decode() == shown
    assert len(shown.splitlines()) <= 50


def test_colour_only_when_asked_for_in_a_pipe(pspf: Pspf) -> None:
    assert b"\x1b" not in pspf("help", "append").stdout
    assert b"\x1b[1m" in pspf("help", "append", "--color", "always").stdout
    assert b"\x1b[1m" in pspf("--color=always", "append", "--help").stdout


def test_version_in_every_spelling(pspf: Pspf) -> None:
    said = pspf("version").stdout
    assert said.startswith(b"pspf ") and said.count(b"\n") == 1
    assert pspf("-V").stdout == pspf("--version").stdout == said
    assert b"python: " in pspf("version", "-v").stdout
    assert b'"version":"' in pspf("version", "--json").stdout
