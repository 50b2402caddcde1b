"""What typer finds wrong with a command line, in the words of PSPF and with a hint that helps."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from typer._click.exceptions import (
    BadOptionUsage,
    BadParameter,
    ClickException,
    MissingParameter,
    NoSuchOption,
    UsageError,
)

from pspf.errors import Usage


def usage_error(error: ClickException, group: Any) -> Usage:
    """The error of PSPF for one of typer."""
    ctx = error.ctx if isinstance(error, UsageError) else None
    path = ctx.command_path if ctx is not None else "pspf"
    about = subject(path)
    help_hint = f"{path} --help"
    if isinstance(error, NoSuchOption):
        return unknown_option(error, path, ctx)
    if isinstance(error, MissingParameter):
        name = error.param.human_readable_name if error.param is not None else "argument"
        entry = getattr(ctx.command, "entry", None) if ctx is not None else None
        return Usage(f"{about}{name} is missing", hint=entry.usage() if entry else help_hint)
    if isinstance(error, BadOptionUsage):
        why = "a value is missing" if "requires" in error.message else "it takes no value"
        return Usage(f"{about}{error.option_name}", why, hint=help_hint)
    if isinstance(error, BadParameter):
        name = "/".join(error.param.opts) if error.param is not None else "value"
        if error.param is not None and error.param.param_type_name == "argument":
            name = error.param.human_readable_name
        return Usage(f"{about}{name}", first_down(error.message), hint=help_hint)
    message = first_down(error.format_message())
    if message.startswith("no such command"):
        return unknown_command(message, path, ctx, group)
    return Usage(f"{about}{message}", hint=help_hint)


def subject(path: str) -> str:
    """``topic create: `` for the path ``pspf topic create``; every message begins with ``pspf: `` anyway."""
    command = path.partition(" ")[2]
    return f"{command}: " if command else ""


def unknown_option(error: NoSuchOption, path: str, ctx: Any) -> Usage:
    """An option that the command does not have: near misses, and the classic ``tail -5``."""
    name = error.option_name
    if ctx is not None and ctx.command.name == "tail" and name[1:].isdigit():
        return Usage(f"{subject(path)}unknown option {name}", hint=f"{path} -n {name[1:]} TOPIC")
    known = [spelling for p in ctx.command.params for spelling in (*p.opts, *p.secondary_opts)] if ctx else []
    close = get_close_matches(name, [k for k in known if k.startswith("--")], 2, 0.6) if len(name) > 2 else []
    turned = name.swapcase()
    if len(name) == 2 and turned in known:
        close = [turned]
    if close:
        return Usage(f"{subject(path)}unknown option {name}", hint=f"did you mean {' or '.join(close)}?")
    return Usage(f"{subject(path)}unknown option {name}", hint=f"{path} --help")


def unknown_command(message: str, path: str, ctx: Any, group: Any) -> Usage:
    """A command that does not exist: near misses, and nouns asked for the wrong way round."""
    name = message.split("'")[1] if "'" in message else ""
    commands = ctx.command.commands if ctx is not None else group.commands
    close = get_close_matches(name, list(commands), 2, 0.6)
    noun = [f"{path} {n} {name}" for n, c in commands.items() if name in getattr(c, "commands", {})]
    what = f"{subject(path)}unknown command {name}"
    if noun:
        return Usage(what, hint=f"did you mean {noun[0]}?")
    if close:
        return Usage(what, hint=f"did you mean {' or '.join(f'{path} {c}' for c in close)}?")
    return Usage(what, hint=f"{path} --help")


def first_down(message: str) -> str:
    """A sentence of typer as part of a line of ours: no capital, no full stop."""
    message = message.strip().rstrip(".")
    return message[:1].lower() + message[1:]
