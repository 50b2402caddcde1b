"""The typer application, built from the functions in ``cmds/``.

The slow way: it is taken for help, for mistakes, and wherever :mod:`pspf.cli.fast` declines. The functions'
annotations are strings; they are evaluated here, among the names of :mod:`pspf.cli.options`. Options of every
command (``-s``, ``-q``, ``-v``, ``--color``) are defined once and added to each, so that they are accepted
before and after the command's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal

import typer
from typer._click.exceptions import ClickException, UsageError
from typer.core import TyperCommand, TyperGroup

from pspf.cli import options
from pspf.cli.table import Command

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Data", ("append", "cat", "tail")),
    ("Topics", ("ls", "topic", "du")),
    ("Integrity", ("verify", "repair", "inspect")),
    ("General", ("init", "config", "bench", "completion", "version", "help")),
)
"""Every top-level command, in the order in which help shows them; each is a module in ``cmds/``."""

COMMON = ("store", "quiet", "verbose", "color")

Carry = Callable[[Any, str, dict[str, Any], dict[str, Any]], int]


class PspfCommand(TyperCommand):
    """A command whose help is ours, and whose options may have a value that can be left out."""

    entry: Command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        bare = {
            name
            for parameter in self.params
            if (getattr(parameter, "metavar", None) or "").startswith("[=")
            for name in parameter.opts
        }
        try:
            return super().parse_args(ctx, [word + "=" if word in bare else word for word in args])
        except UsageError as error:
            # Some are raised without saying which command they are about.
            error.ctx = error.ctx or ctx
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from pspf.cli.help import command_help

        formatter.write(command_help(self.entry, ctx_color(ctx)))


class PspfGroup(TyperGroup):
    """``pspf`` itself, or a noun with sub-commands."""

    overview: Any

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from pspf.cli.help import group_help

        formatter.write(group_help(self, ctx_color(ctx)))


def ctx_color(ctx: Any) -> str | None:
    """The ``--color`` given in front of ``--help``; typer strips colours from a pipe unless told."""
    outer = ctx
    while outer is not None:
        if outer.params.get("color"):
            ctx.color = outer.params["color"] == "always" or ctx.color
            return str(outer.params["color"])
        outer = outer.parent
    return None


def common_options(
    store: options.Store = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    color: options.Color = None,
) -> None:
    """The options of every command."""


def build(carry: Carry) -> Any:
    """The application; every command ends in ``carry(module, function's name, common, arguments)``.

    :returns: the click group, each of whose commands carries its :class:`pspf.cli.table.Command` as
        ``entry``.
    """
    root = typer.Typer(
        name="pspf",
        cls=PspfGroup,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    root.callback(invoke_without_command=True)(with_signature(start, inspect.signature(start, eval_str=True)))
    sources: dict[tuple[str, ...], tuple[Any, Any]] = {}
    for _, names in GROUPS:
        for name in names:
            module = import_module(f"pspf.cmds.{name}")
            subcommands = getattr(module, "COMMANDS", None)
            if subcommands is None:
                sources[(name,)] = (module, getattr(module, name))
                root.command(name, cls=PspfCommand)(adapt(module, name, carry))
                continue
            noun = typer.Typer(name=name, cls=PspfGroup, help=module.__doc__, rich_markup_mode=None)
            noun.callback(invoke_without_command=True)(
                with_signature(start_noun, inspect.signature(start_noun, eval_str=True))
            )
            for subcommand in subcommands:
                function = subcommand.replace("-", "_")
                sources[(name, subcommand)] = (module, getattr(module, function))
                noun.command(subcommand, cls=PspfCommand)(adapt(module, function, carry))
            root.add_typer(noun)
    group: Any = typer.main.get_command(root)
    for path, (module, function) in sources.items():
        click = group.commands[path[0]]
        if len(path) > 1:
            click.noun = module
            click = click.commands[path[1]]
        click.entry = Command(path, click, module, function)
    return group


def start(
    ctx: typer.Context,
    store: options.Store = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    color: options.Color = None,
    version: Annotated[bool, typer.Option("-V", "--version", help="Print the version and exit.")] = False,
) -> None:
    """Store and read event streams in a directory."""
    if version:
        from pspf.cli.main import Invocation
        from pspf.cmds.version import version as print_version

        print_version(Invocation())
        raise typer.Exit()
    demand_command(ctx)


def start_noun(
    ctx: typer.Context,
    store: options.Store = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    color: options.Color = None,
) -> None:
    demand_command(ctx)


def demand_command(ctx: typer.Context) -> None:
    """Without a command: the overview, on standard error, and exit 2."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)


def adapt(module: Any, name: str, carry: Carry) -> Callable[..., Any]:
    """A function that typer can read and call, for function ``name`` of a command's module."""
    function = getattr(module, name)
    names = {**vars(options), "typer": typer, "Annotated": Annotated, "Literal": Literal, "Invocation": Any}
    names["Appended"] = Any
    signature = inspect.signature(function, globals={**names, **vars(module)}, eval_str=True)
    own = list(signature.parameters.values())[1:]
    common = list(inspect.signature(common_options, eval_str=True).parameters.values())
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    keyword = inspect.Parameter.KEYWORD_ONLY

    def call(**arguments: Any) -> Any:
        ctx = arguments.pop("ctx")
        mine = {parameter: arguments.pop(parameter) for parameter in COMMON}
        return carry(module, name, merge(ctx, mine), arguments)

    adapted = with_signature(
        call,
        inspect.Signature(
            [p.replace(kind=keyword) for p in (context, *own, *common)], return_annotation=None
        ),
    )
    adapted.__doc__ = function.__doc__
    return adapted


def with_signature(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """``function``, described to typer by ``signature``."""
    target: Any = function
    target.__signature__ = signature
    target.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return function


def merge(ctx: Any, mine: dict[str, Any]) -> dict[str, Any]:
    """The options of every command: what stands after the command's name wins over what stands before."""
    merged = dict(mine)
    while ctx.parent is not None:
        ctx = ctx.parent
        for parameter in COMMON:
            if merged[parameter] is None or merged[parameter] is False:
                merged[parameter] = ctx.params[parameter]
    return merged


def run_typer(words: list[str], carry: Carry) -> int:
    """Carry out command line ``words`` by way of typer; its exit code, or a usage error of PSPF.

    The command runs after typer is done: typer has its own ideas of what interrupts and broken pipes mean.
    """
    wanted: list[tuple[Any, str, dict[str, Any], dict[str, Any]]] = []

    def remember(module: Any, name: str, common: dict[str, Any], arguments: dict[str, Any]) -> int:
        wanted.append((module, name, common, arguments))
        return 0

    group = build(remember)
    try:
        code = group.main(args=words, prog_name="pspf", standalone_mode=False)
    except ClickException as error:
        from pspf.cli.mistakes import usage_error

        raise usage_error(error, group) from None
    except SystemExit:
        raise BrokenPipeError from None
    return carry(*wanted[0]) if wanted else int(code or 0)
