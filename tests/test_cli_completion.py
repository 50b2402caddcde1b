"""Completion in the real shells: options, commands, fixed words, and topics of the store that is meant."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pspf.cli.completions import FILES
from pspf.cli.generate import commands
from tests.conftest import ROOT, clean_environment

Ask = Callable[[str], set[str]]


@pytest.fixture
def home(scratch_dir: Path) -> Path:
    """A home with a default store of two topics, and another store with one."""
    for name in (
        ".local/share/pspf/topics/orders",
        ".local/share/pspf/topics/flights",
        ".local/share/pspf/topics/.del-1",
        "other/topics/metrics",
        "some-directory",
    ):
        (scratch_dir / name).mkdir(parents=True)
    (scratch_dir / "some-file").touch()
    (scratch_dir / ".local/share/pspf/topics/not-a-topic").touch()
    return scratch_dir


def needs(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed: make ci-tools")
    return path


def completion_file(shell: str) -> str:
    return str(ROOT / "shell-completions" / FILES[shell])


def ask_bash(home: Path) -> Ask:
    bash = needs("bash")
    script = """
        source "$1"
        line=$2
        # As readline does: blanks divide words, and so does =, which stands alone.
        spaced=${line//=/ = }
        read -ra COMP_WORDS <<< "$spaced"
        [[ $line == *' ' || $line == *= ]] && COMP_WORDS+=('')
        [[ $line == *= ]] && unset 'COMP_WORDS[-1]'
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        _pspf
        printf '%s\\n' "${COMPREPLY[@]}"
    """

    def ask(line: str) -> set[str]:
        ran = subprocess.run(
            [bash, "--norc", "-c", script, "bash", completion_file("bash"), line],
            cwd=home,
            env=clean_environment(home),
            capture_output=True,
            text=True,
            check=True,
        )
        # Outside of a completion there is nothing that compopt could change.
        assert all("compopt" in complaint for complaint in ran.stderr.splitlines()), ran.stderr
        return set(ran.stdout.split())

    return ask


def ask_fish(home: Path) -> Ask:
    fish = needs("fish")

    def ask(line: str) -> set[str]:
        ran = subprocess.run(
            [
                fish,
                "--no-config",
                "-c",
                "source $argv[1]; complete -C $argv[2]",
                completion_file("fish"),
                line,
            ],
            cwd=home,
            env=clean_environment(home),
            capture_output=True,
            text=True,
            check=True,
        )
        assert not ran.stderr, ran.stderr
        return {found.split("\t")[0].rstrip("/") for found in ran.stdout.splitlines()}

    return ask


ZSH_SETUP = """
PS1= PROMPT_EOL_MARK= ; unsetopt zle_bracketed_paste 2>/dev/null
autoload -U compinit && compinit -u -D
fpath=({folder} $fpath); autoload -U _pspf; compdef _pspf pspf
LISTMAX=9999 ; unsetopt auto_menu list_ambiguous list_beep
compadd() {{
    if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return $?; fi
    local -a hits
    builtin compadd -A hits "$@"
    print -l -- $hits >> {out}
    builtin compadd "$@"
}}
finish() {{ print -r -- "END" >> {out}; BUFFER= }}
zle -N finish; bindkey '^G' finish; bindkey '^I' complete-word
"""


def ask_zsh(home: Path) -> Ask:
    """Keys typed into an interactive zsh; what its completion offers is written to a file."""
    zsh = needs("zsh")

    def ask(line: str) -> set[str]:
        out = home / "offered"
        setup = home / "setup.zsh"
        setup.write_text(ZSH_SETUP.format(out=out, folder=Path(completion_file("zsh")).parent))
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(home)
            os.execve(zsh, [zsh, "-f", "-i"], {**clean_environment(home), "TERM": "dumb"})
        try:
            os.write(terminal, f"source {setup}; print READY\n".encode())
            read_until(terminal, b"READY\r")
            os.write(terminal, f"{line}\t\x07".encode())
            until = time.monotonic() + 30
            while not (out.exists() and out.read_text().endswith("END\n")):
                assert time.monotonic() < until, "zsh does not answer"
                if select.select([terminal], [], [], 0.05)[0]:
                    os.read(terminal, 65536)
            return set(out.read_text().split("\n")) - {"", "END"}
        finally:
            out.unlink(missing_ok=True)
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(terminal)

    return ask


def read_until(terminal: int, wanted: bytes) -> None:
    seen = b""
    until = time.monotonic() + 30
    while wanted not in seen:
        assert time.monotonic() < until, seen
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 65536)


SHELLS = {"bash": ask_bash, "zsh": ask_zsh, "fish": ask_fish}


@pytest.fixture(params=SHELLS)
def ask(request: pytest.FixtureRequest, home: Path) -> Ask:
    return SHELLS[request.param](home)


def test_commands_are_offered_first(ask: Ask) -> None:
    assert ask("pspf ") >= {entry.path[0] for entry in commands()}


def test_subcommands_of_a_noun_are_offered(ask: Ask) -> None:
    assert ask("pspf topic ") == {"create", "describe", "alter", "rename", "delete", "add-partitions"}


@pytest.mark.parametrize(
    "line", ["pspf cat ", "pspf cat --json ", "pspf -q tail -n 3 ", "pspf topic delete "]
)
def test_topics_of_the_default_store_are_offered(ask: Ask, line: str) -> None:
    assert ask(line) == {"orders", "flights"}


@pytest.mark.parametrize(
    "line", ["pspf -s other cat ", "pspf cat -s other ", "pspf --store other topic alter "]
)
def test_topics_of_the_store_on_the_command_line_are_offered(ask: Ask, line: str) -> None:
    assert ask(line) == {"metrics"}


def test_a_second_topic_is_not_offered_where_there_is_one(ask: Ask) -> None:
    # zsh shows the options instead.
    assert not {word for word in ask("pspf cat orders ") if not word.startswith("-")}


def test_help_offers_commands_and_then_those_of_a_noun(ask: Ask) -> None:
    assert ask("pspf help ") >= {entry.path[0] for entry in commands()}
    assert ask("pspf help topic ") >= {"create", "describe", "alter", "rename", "delete", "add-partitions"}
    assert not {word for word in ask("pspf help topic ") if word in ("append", "topic", "orders")}
    assert not {word for word in ask("pspf help cat ") if not word.startswith("-")}


def test_the_name_of_a_new_topic_is_none_that_is_there(ask: Ask) -> None:
    assert not {word for word in ask("pspf topic create ") if not word.startswith("-")}
    assert ask("pspf topic describe ") == {"orders", "flights"}


def test_more_topics_are_offered_where_there_may_be_many(ask: Ask) -> None:
    assert "flights" in ask("pspf ls orders ")


def test_files_are_offered_behind_the_topic_of_append(ask: Ask) -> None:
    assert ask("pspf append orders some-f") == {"some-file"} or ask("pspf append orders some-") >= {
        "some-file"
    }


def test_fixed_words_of_an_option_are_offered(ask: Ask) -> None:
    assert ask("pspf append orders --durability ") == {"sync", "interval", "os"}
    assert ask("pspf completion ") == {"bash", "zsh", "fish"}


@pytest.mark.parametrize("name", ["append", "tail", "topic create", "topic alter", "bench"])
def test_every_long_option_is_offered(ask: Ask, name: str) -> None:
    entry = next(entry for entry in commands() if entry.name == name)
    long = {n for o in entry.options for n in (*o.names, *o.negative) if n.startswith("--")}
    assert {offered.split("=")[0] for offered in ask(f"pspf {name} --")} >= long


def test_a_name_begun_is_completed(ask: Ask) -> None:
    assert ask("pspf cat or") == {"orders"}


def test_bash_completes_behind_an_equals_sign(home: Path) -> None:
    assert ask_bash(home)("pspf append orders --durability=s") == {"sync"}


def test_topics_are_listed_without_starting_a_process_in_bash(home: Path) -> None:
    # A fork of the shell itself is left; PATH is empty, so that nothing else can run.
    ask = "PATH=; COMP_WORDS=(pspf cat ''); COMP_CWORD=2; _pspf; echo ${COMPREPLY[@]}"
    script = f"source {completion_file('bash')}; {ask}"
    ran = subprocess.run(
        [needs("bash"), "--norc", "-c", script],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(ran.stdout.split()) == {"orders", "flights"}
