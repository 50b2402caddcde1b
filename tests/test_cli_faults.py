"""Commands that were found to say or do what is not so; see docs/bugs.md."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pspf.cli.generate import commands
from tests.conftest import Pspf
from tests.support_exit_codes import undeclared


def rows(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


# -- exit codes


PRINT = {
    "append": "append --ack t",
    "cat": "cat t",
    "tail": "tail t",
    "ls": "ls",
    "topic describe": "topic describe t",
    "topic delete": "topic delete --dry-run t",
    "du": "du",
    "verify": "verify --json",
    "repair": "repair --json t",
    "inspect": "inspect t",
    "init": "init other",
    "config": "config",
    "completion": "completion bash",
    "version": "version",
    "help": "help",
}


@pytest.mark.parametrize("name", PRINT)
def test_a_command_declares_how_it_ends_where_its_output_cannot_go(pspf: Pspf, name: str) -> None:
    pspf("append", "t", input=b"x" * 1000 + b"\n")
    words = PRINT[name].split()
    reading, writing = os.pipe()
    os.close(reading)
    for number, code in ((os.open("/dev/full", os.O_WRONLY), 74), (writing, -13)):
        ran = subprocess.run(
            pspf.argv(*words),
            input=b"y\n",
            stdout=number,
            stderr=subprocess.PIPE,
            cwd=pspf.home,
            env=pspf.environment(),
            check=False,
        )
        os.close(number)
        assert ran.returncode == code, ran.stderr
        assert not undeclared(words, code)
        if name == "init":
            words[-1] += "-again"


def test_every_command_that_prints_declares_so() -> None:
    silent = {entry.name for entry in commands()} - PRINT.keys()
    assert silent == {"topic create", "topic alter", "topic rename", "topic add-partitions", "bench"}


# -- configuration


def configure(pspf: Pspf, text: str) -> Path:
    (pspf.home / ".config/pspf").mkdir(parents=True, exist_ok=True)
    file = pspf.home / ".config/pspf/config.toml"
    file.write_text(text)
    return file


def setting(pspf: Pspf, name: str, **more: Any) -> str:
    return str(
        next(row["value"] for row in rows(pspf("config", "--json", **more).stdout) if row["name"] == name)
    )


def test_a_colour_that_there_is_not_is_refused(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    ran = pspf("ls", env={"PSPF_COLOR": "blue"})
    assert ran.returncode == 78
    assert ran.stderr.decode().splitlines() == [
        "pspf: bad value for color: 'blue' is none of: auto, always, never (PSPF_COLOR)",
        "hint: pspf config",
    ]
    file = configure(pspf, 'color = "blue"\n')
    ran = pspf("ls")
    assert (ran.returncode, str(file).encode() in ran.stderr) == (78, True)
    assert pspf("cat", "t").stdout == b"x\n"  # it colours nothing
    assert pspf("help").returncode == 0
    assert pspf("ls", "--color", "never").returncode == 0


@pytest.mark.parametrize(
    "text", ['stroe = "/x"\n', "store = 5\n", "not toml\n", 'color = "blue"\n', 'store = "x/y"\n']
)
def test_config_works_with_a_configuration_that_does_not(pspf: Pspf, text: str) -> None:
    file = configure(pspf, text)
    for words in (["config"], ["config", "--json"]):
        ran = pspf(*words)
        assert ran.returncode == 78
        assert str(file).encode() in ran.stderr
        assert b"store" in ran.stdout and b"color" in ran.stdout
        assert len(ran.stderr.splitlines()) <= 2
    assert pspf("help", "append").returncode == 0


def test_a_store_in_the_configuration_may_begin_with_home_and_is_never_relative(pspf: Pspf) -> None:
    configure(pspf, 'store = "~/s"\n')
    assert setting(pspf, "store") == f"{pspf.home}/s"
    pspf("append", "t", input=b"x\n")
    assert (pspf.home / "s/store.toml").exists()
    for text in ('store = "s"\n', 'store = "./s"\n', 'store = "~other/s"\n'):
        configure(pspf, text)
        ran = pspf("append", "t", input=b"x\n")
        assert ran.returncode == 78
        assert b"begins with / or ~/" in ran.stderr
    assert {path.name for path in pspf.home.iterdir()} == {".config", "s"}


def test_a_store_in_the_environment_may_begin_with_home(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n", env={"PSPF_STORE": "~/s"})
    assert (pspf.home / "s/store.toml").exists()


def test_config_prints_the_path_that_is_meant(pspf: Pspf) -> None:
    assert setting(pspf, "store", env={"PSPF_STORE": "here/../there"}) == f"{pspf.home}/there"
    (row, *_) = rows(pspf("config", "--json", "-s", "here").stdout)
    assert row["value"] == f"{pspf.home}/here"


def test_every_variable_is_documented(pspf: Pspf) -> None:
    root = Path(__file__).resolve().parent.parent
    for document in ("man/man1/pspf.1", "docs/commands.md"):
        text = (root / document).read_text()
        for name in ("PSPF_STORE", "PSPF_COLOR", "PSPF_FORCE", "PSPF_WAKE", "PSPF_DEBUG", "NO_COLOR"):
            assert name in text, (document, name)


# -- empty arguments


@pytest.mark.parametrize(
    "words",
    [
        ["init", ""],
        ["init", "--shared=", ""],
        ["bench", "--only", ""],
        ["bench", "--only", " , "],
        ["bench", "--dir", "", "--only", "W1"],
        ["inspect", ""],
        ["cat", "t", "-p", ""],
        ["cat", "t", "-o", ""],
        ["tail", "t", "-n", ""],
        ["topic", "create", ""],
        ["topic", "alter", "t", "--from", ""],
        ["help", ""],
        ["append", "t", ""],
    ],
    ids=" ".join,
)
def test_an_empty_argument_is_refused(pspf: Pspf, words: list[str]) -> None:
    ran = pspf(*words, timeout=20)
    assert ran.returncode == 2, ran
    assert len(ran.stderr.splitlines()) <= 2
    assert list(pspf.home.iterdir()) == []


# -- tables


def test_a_table_with_colour_in_a_pipe_is_not_folded(pspf: Pspf) -> None:
    name = "n" * 150
    pspf("append", name, input=b"x\n")
    for env in ({}, {"COLUMNS": "40"}):
        lines = pspf("ls", "--color", "always", env=env).stdout.decode().splitlines()
        assert len(lines) == 2
        assert name in lines[1] and lines[1].rstrip().endswith("Z")


def test_times_are_not_folded_on_a_narrow_terminal(pspf: Pspf) -> None:
    from tests.test_cli_commands import on_terminal

    pspf("append", "n" * 150, input=b"x\n")
    code, seen = on_terminal(pspf, "ls")
    assert code == 0
    (first,) = rows(pspf("ls", "--json").stdout)
    from pspf.cli.output import time_text

    assert time_text(first["first_ms"], precision="seconds") in seen


# -- limits of settings


@pytest.mark.parametrize(
    "words",
    [
        ["topic", "create", "-n", "0", "new"],
        ["topic", "create", "-n", "20000", "new"],
        ["topic", "create", "--max-record-bytes", "40MiB", "new"],
        ["topic", "create", "--interval-ms", "0", "new"],
        ["topic", "alter", "t", "--segment-bytes", "1"],
        ["topic", "alter", "t", "--interval-ms", "0"],
        ["topic", "add-partitions", "t", "-n", "20000"],
        ["topic", "add-partitions", "t", "-n", "0"],
    ],
    ids=" ".join,
)
def test_a_setting_out_of_its_limits_is_a_mistake_of_the_command_line(pspf: Pspf, words: list[str]) -> None:
    ran = pspf("-s", "none", *words)
    assert ran.returncode == 2, ran
    error, hint = ran.stderr.decode().splitlines()
    assert "is not between" in error and " --" in error
    assert hint.startswith("hint: ")
    assert list(pspf.home.iterdir()) == []


@pytest.mark.parametrize("name", ["a/b", "", "..", "x" * 201])
def test_a_bad_topic_name_makes_no_store(pspf: Pspf, name: str) -> None:
    for words in (["append", name], ["topic", "create", name]):
        ran = pspf(*words, input=b"x\n")
        assert ran.returncode == 2
        error, hint = ran.stderr.decode().splitlines()
        assert error.startswith("pspf: bad topic name") and "A-Z a-z 0-9 . _ -" in hint
        assert list(pspf.home.iterdir()) == []


# -- inspect


def test_inspect_of_a_file_needs_no_store_and_follows_the_path_that_was_given(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    (segment,) = pspf.home.glob(".local/share/pspf/topics/t/0/*.log")
    wanted = rows(pspf("inspect", "--json", "t").stdout)
    alone = pspf.home / segment.name
    alone.write_bytes(segment.read_bytes())
    (pspf.home / "link.log").symlink_to(alone)
    env: dict[str, str | None] = {"PSPF_STORE": "/nowhere/at/all"}
    for path in (segment.name, str(alone), "./link.log"):
        ran = pspf("inspect", "--json", path, env=env)
        assert ran.returncode == 0, ran.stderr
        assert [row["type"] for row in rows(ran.stdout)] == [row["type"] for row in wanted]
        assert rows(ran.stdout)[1]["header_crc"] == wanted[1]["header_crc"]


def test_inspect_of_what_is_no_segment_exits_65(pspf: Pspf) -> None:
    ran = pspf("inspect", "/etc/passwd")
    assert ran.returncode == 65
    assert ran.stderr.startswith(b"pspf: /etc/passwd is no segment of PSPF: ")
    os.mkfifo(pspf.home / "fifo")
    assert pspf("inspect", "./fifo").returncode == 2
    assert pspf("inspect", "/etc").returncode == 2
    assert pspf("inspect", "./missing").returncode == 66


# -- hints


def test_a_missing_partition_is_hinted_at_by_who_asks(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    assert pspf("cat", "t", "-p", "7").stderr.splitlines()[1] == b"hint: pspf topic describe t"
    ran = pspf("append", "t", "-p", "7", input=b"x\n")
    assert ran.stderr.splitlines()[1] == b"hint: pspf topic add-partitions t -n 8"


def test_a_usage_line_names_the_options_that_must_be_given(pspf: Pspf) -> None:
    wanted = b"pspf topic add-partitions -n N [OPTIONS] TOPIC"
    assert wanted in pspf("topic", "add-partitions", "--help").stdout
    assert b"hint: " + wanted in pspf("topic", "add-partitions", "t").stderr


# -- reading over damage


def test_the_last_records_over_damage_are_as_many_as_were_asked_for(pspf: Pspf) -> None:
    for first in (0, 10, 20):
        pspf("append", "t", input=b"".join(b"%d\n" % n for n in range(first, first + 10)))
    (segment,) = pspf.home.glob(".local/share/pspf/topics/t/0/*.log")
    from tests.support_damage import batches, flip

    flip(segment, batches(segment)[1].position + batches(segment)[1].size - 1)
    ran = pspf("tail", "-n", "15", "--skip-damaged", "t")
    assert ran.returncode == 65
    wanted = [*range(5, 10), *range(20, 30)]
    assert ran.stdout == b"".join(b"%d\n" % n for n in wanted)
    error, hint = ran.stderr.decode().splitlines()
    assert error.startswith("pspf: damage in t/0 at offset 10 to 19: ")
    assert hint == "hint: pspf verify t"
    ran = pspf("tail", "-n", "5", "--skip-damaged", "t")
    assert (ran.returncode, ran.stderr, ran.stdout.split()) == (0, b"", [b"25", b"26", b"27", b"28", b"29"])
    assert "or --skip-damaged" in pspf("cat", "t").stderr.decode()
