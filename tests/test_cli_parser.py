"""The fast parser says exactly what typer says, or nothing."""

from __future__ import annotations

import re
import shlex
import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pspf.cli import app
from pspf.cli.fast import parse
from pspf.cli.generate import commands
from pspf.cli.table import Command
from pspf.errors import Usage

ENTRIES = {entry.name: entry for entry in commands()}
CALLS: list[tuple[Any, str, dict[str, Any], dict[str, Any]]] = []


def carry(module: Any, name: str, common: dict[str, Any], arguments: dict[str, Any]) -> int:
    CALLS.append((module, name, common, arguments))
    return 0


GROUP = app.build(carry)


def by_typer(words: list[str]) -> tuple[str, str, dict[str, Any], dict[str, Any]] | None:
    """What typer makes of a command line; None for help and for mistakes."""
    CALLS.clear()
    try:
        GROUP.main(args=list(words), prog_name="pspf", standalone_mode=False)
    except Exception as error:
        assert type(error).__module__.startswith("typer."), error
        return None
    if not CALLS:
        return None
    module, name, common, arguments = CALLS[0]
    return module.__name__, name, common, arguments


def by_fast(words: list[str]) -> tuple[str, str, dict[str, Any], dict[str, Any]] | None:
    call = parse(list(words))
    return None if call is None else (call[0].__name__, *call[1:])


def types_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: type(value) for name, value in arguments.items()}


VALUES = st.one_of(
    st.sampled_from(
        ["", "-", "--", "0", "7", "-1", "+3", "1_0", " 5", "٣", "sync", "os", "zstd", "none", "bash"]
    ),
    st.sampled_from(
        ["orders", "-x", "--json", "=", "a=b", "-o", "@1h", "64KiB", "\udcff", "\n", "-5", "--no-such"]
    ),
    st.text(string.printable, max_size=6),
)


@st.composite
def command_lines(draw: st.DrawFn, entry: Command) -> list[str]:
    """Mostly sensible command lines: real options and values, some of them wrong, in any order."""
    spellings = [n for o in entry.options for n in (*o.names, *o.negative)]
    takes = {n for o in entry.options if o.metavar for n in o.names}

    def option() -> list[str]:
        name = draw(st.sampled_from(spellings))
        form = draw(st.integers(0, 4))
        if form == 0:
            return [name + "=" + draw(VALUES)]
        if form == 1 and len(name) == 2:
            return [name + draw(VALUES)]
        if form == 2 and len(name) == 2:
            return [
                name
                + "".join(
                    n[1:] for n in draw(st.lists(st.sampled_from(spellings), max_size=3)) if len(n) == 2
                )
            ]
        return [name, draw(VALUES)] if name in takes else [name]

    common = ["-s", "dir", "-q", "-v", "--store=x", "--color", "never", "-V", "-h", "--help"]
    words = draw(st.lists(st.sampled_from(common), max_size=2)) if draw(st.booleans()) else []
    words += entry.path[:1]
    if len(entry.path) > 1:
        words += draw(st.lists(st.sampled_from(["-q", "--store=y"]), max_size=1))
        words += entry.path[1:]
    if draw(st.booleans()):
        for required in (o for o in entry.options if o.required):
            words += [required.names[0], "8"]
        words += [a.choices[0] if a.choices else "orders" for a in entry.arguments if a.required]
    for _ in range(draw(st.integers(0, 5))):
        words += [draw(VALUES)] if draw(st.integers(0, 2)) == 0 else option()
    return words


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_fast_start_calls_what_typer_would_call(name: str) -> None:
    seen = {"same": 0, "declined": 0}

    @settings(max_examples=200, deadline=None)
    @given(command_lines(ENTRIES[name]))
    def compare(words: list[str]) -> None:
        fast = by_fast(words)
        if fast is None:
            seen["declined"] += 1
            return
        seen["same"] += 1
        slow = by_typer(words)
        assert slow == fast
        assert types_of(slow[3]) == types_of(fast[3])

    compare()
    assert seen["same"], "a parser that always declines proves nothing"


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.one_of(VALUES, st.sampled_from([w for e in ENTRIES.values() for w in e.path])), max_size=6)
)
@example([])
@example(["append"])
@example(["append", "--"])
@example(["append", "t", "--", "-k"])
@example(["append", "t", "-k"])
@example(["append", "t", "-k", "--", "f"])
@example(["append", "t", "-0wk"])
@example(["append", "t", "-0wkx"])
@example(["append", "t", "--key="])
@example(["append", "t", "--key"])
@example(["append", "t", "--nul=1"])
@example(["append", "t", "-p", "007"])
@example(["append", "t", "-p", "9" * 30])
@example(["topic"])
@example(["topic", "create"])
@example(["topic", "add-partitions", "t"])
@example(["init", "--shared"])
@example(["cat", "t", "t"])
@example(["-s", "append", "append", "t"])
def test_fast_start_never_differs_on_any_words(words: list[str]) -> None:
    fast = by_fast(words)
    if fast is not None:
        assert by_typer(words) == fast


USUAL = [
    ["append", "orders"],
    ["append", "orders", "-K", ":", "a.txt", "b.txt"],
    ["append", "-0Zk", "key", "orders"],
    ["-s", "/srv/store", "append", "--durability=os", "orders", "-"],
    ["append", "orders", "-q", "--producer", "nightly", "-H", "a=b", "-H", "c=d", "-p", "3"],
    ["cat", "orders"],
    ["cat", "orders", "-o", "-5", "-o", "@1h", "--json"],
    ["tail", "-f", "-n", "+1", "orders"],
    ["ls"],
    ["ls", "--json", "orders", "flights"],
    ["topic", "create", "-n", "8", "orders"],
    ["-q", "topic", "-v", "alter", "orders", "--no-preallocate"],
    ["verify"],
    ["version"],
]


@pytest.mark.parametrize("words", USUAL, ids=" ".join)
def test_usual_command_lines_start_fast(words: list[str]) -> None:
    assert by_fast(words) is not None
    assert by_fast(words) == by_typer(words)


def test_options_behind_the_command_win_over_those_before_it() -> None:
    for words in (["-s", "a", "ls", "-s", "b"], ["--color", "never", "ls", "--color=always"]):
        assert by_fast(words) == by_typer(words) is not None
    assert by_typer(["-s", "a", "ls", "-s", "b"])[2]["store"] == "b"  # type: ignore[index]
    assert by_typer(["topic", "-s", "a", "create", "t"])[2]["store"] == "a"  # type: ignore[index]


EXCEPTIONS = {
    # -n is the number that the command is about: records of tail(1), partitions of a topic.
    ("-n", "lines"),
    ("-n", "partitions"),
}


def test_one_letter_means_one_thing_in_all_commands() -> None:
    meanings: dict[str, set[str]] = {}
    for entry in ENTRIES.values():
        for option in entry.options:
            for name in (*option.names, *option.negative):
                meanings.setdefault(name, set()).add(option.parameter)
    several = {name: found for name, found in meanings.items() if len(found) > 1}
    assert {(name, p) for name, found in several.items() for p in found} == EXCEPTIONS


def test_each_long_option_is_named_after_its_parameter() -> None:
    from pspf.cli.failure import spelling

    for entry in ENTRIES.values():
        for option in entry.options:
            assert spelling(option.parameter) in option.names, (entry.name, option.names)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_each_command_says_what_it_does_with_which_codes_and_an_example(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.summary and len(entry.summary) <= 60
    assert set(entry.exit_codes) >= {0, 2}
    assert entry.examples
    for option in entry.options:
        assert option.help.endswith("."), option.names
    for line, _ in entry.examples:
        calls = pspf_calls(line)
        assert calls, f"{line}: no example of pspf"
        for words in calls:
            assert by_typer(words) is not None, f"{line}: not a valid command line"


def pspf_calls(line: str) -> list[list[str]]:
    """The words behind each ``pspf`` of a shell command line."""
    parts = (part.strip() for part in re.split(r"[|>]|\$\(|\)", line))
    return [shlex.split(part)[1:] for part in parts if part.startswith("pspf ")]


def test_contradictions_are_refused_not_ignored() -> None:
    from pspf.cli.main import carry_out
    from pspf.cmds import append, topic

    wrong = [
        (append, ["append", "t", "-0", "-D", ","]),
        (append, ["append", "t", "-p", "0", "--json", "--preserve"]),
        (append, ["append", "t", "--preserve"]),
        (append, ["append", "t", "--new-source"]),
        (append, ["append", "t", "-K", ":", "-k", "key"]),
        (topic, ["topic", "alter", "t", "--from", "f", "--no-preallocate"]),
    ]
    for module, words in wrong:
        call = parse(words)
        assert call is not None and call[0] is module
        with pytest.raises(Usage):
            carry_out(*call)
