"""The parser of the fast start.

Importing typer costs more than three whole appends, so usual command lines are read here, from tables that
:mod:`pspf.cli.generate` writes from the typer functions in ``cmds/``. The promise is narrow: :func:`parse`
returns exactly the arguments that typer would have called the function with, or None. None means "ask typer":
for ``--help``, for every mistake, and for anything unusual. No error is ever reported here, so there is one
place where errors are worded. A test compares both on generated command lines.

A table maps each spelling of an option to (parameter, kind). Kinds: True or False, a flag and what it sets;
``"text"``; ``"list"``, text that may be repeated; ``"number"``, a whole number from 0; a tuple, the words
allowed; ``"decline"``, an option whose values only typer understands.
"""

from pspf.cli._spec import COMMANDS, COMMON_DEFAULTS, COMMON_OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Call = tuple[Any, str, dict[str, Any], dict[str, Any]]
    """A command's module, the name of its function, the options of every command, and its own."""

LONGEST_NUMBER = 18


def parse(words: "list[str]") -> "Call | None":
    """The call that command line ``words`` (without the program's name) stands for, or None: ask typer."""
    rest = words[::-1]
    given: dict[str, Any] = {}
    if not scan(rest, COMMON_OPTIONS, given, None) or not rest:
        return None
    name = rest.pop()
    if name not in COMMANDS:
        return None
    spec = __import__("pspf.cli._spec." + name, None, None, ("ENTRIES",))
    entries = spec.ENTRIES
    entry = entries.get("")
    if entry is None:
        if not scan(rest, COMMON_OPTIONS, given, None) or not rest:
            return None
        entry = entries.get(rest.pop())
        if entry is None:
            return None
    function, names, options, defaults, required = entry
    positional: list[str] = []
    if not scan(rest, {**COMMON_OPTIONS, **options}, given, positional):
        return None
    arguments = defaults.copy()
    for parameter, kind in names:
        if not positional:
            break
        if kind == "list":
            arguments[parameter] = positional
            positional = []
        else:
            word = positional.pop(0)
            if kind != "text" and word not in kind:
                return None
            arguments[parameter] = word
    if positional:
        return None
    common = COMMON_DEFAULTS.copy()
    for parameter in given:
        if parameter in common:
            common[parameter] = given[parameter]
        else:
            arguments[parameter] = given[parameter]
    for parameter in required:
        if parameter not in arguments:
            return None
    return __import__(spec.MODULE, None, None, (function,)), function, common, arguments


def scan(
    rest: "list[str]",
    options: "dict[str, Any]",
    given: "dict[str, Any]",
    positional: "list[str] | None",
) -> bool:
    """Take options off the end of ``rest`` (the command line turned round) into ``given``.

    :param positional: where other words go; None stops in front of the first of them.
    :returns: False if anything is not plainly right.
    """
    while rest:
        word = rest.pop()
        if word[:1] != "-" or word == "-":
            if positional is None:
                rest.append(word)
                return True
            positional.append(word)
        elif word[:2] == "--":
            name, equals, value = word.partition("=")
            entry = options.get(name)
            if entry is None:
                return False
            parameter, kind = entry
            if kind is True or kind is False:
                if equals:
                    return False
                given[parameter] = kind
            else:
                if not equals:
                    if not rest:
                        return False
                    value = rest.pop()
                if not keep(given, parameter, kind, value):
                    return False
        else:
            at = 1
            while at < len(word):
                entry = options.get("-" + word[at])
                at += 1
                if entry is None:
                    return False
                parameter, kind = entry
                if kind is True or kind is False:
                    given[parameter] = kind
                    continue
                if at < len(word):
                    value = word[at:]
                elif rest:
                    value = rest.pop()
                else:
                    return False
                if not keep(given, parameter, kind, value):
                    return False
                break
    return True


def keep(given: "dict[str, Any]", parameter: str, kind: "Any", value: str) -> bool:
    """Store ``value`` as what typer would make of it; False when it is not plainly that."""
    if kind == "text":
        given[parameter] = value
    elif kind == "list":
        if parameter in given:
            given[parameter].append(value)
        else:
            given[parameter] = [value]
    elif kind == "number":
        # int() takes more spellings (underscores, other scripts' digits); those go the slow way.
        if len(value) > LONGEST_NUMBER or not (value.isascii() and value.isdigit()):
            return False
        given[parameter] = int(value)
    elif kind == "decline" or value not in kind:
        return False
    else:
        given[parameter] = value
    return True
