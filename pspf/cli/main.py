"""Where every start begins: the fast parser, or typer, then the command, then the exit code.

A command is given an :class:`Invocation`: the options of every command, the store, and a way to say things.
Standard output carries data only. Messages go to standard error: *notes* (what went well) only when it is a
terminal or with ``-v``, since cron mails every word; *warnings* always. ``-q`` silences both.

The whole path of ``pspf append`` and ``pspf cat`` is counted in instructions (a test), so modules are
imported where they are used. Three things here save more than all else together:

- the process leaves by ``os._exit`` once the store is closed and the output is flushed; tearing the
  interpreter down costs a fifth of an empty start and does nothing that is needed;
- the garbage collector does not run while modules are loaded, where there is nothing to collect;
- our own modules are found where they are (:class:`OwnModules`) instead of being searched for.
"""

import gc
import sys
from _struct import pack
from marshal import loads
from os import O_CLOEXEC, _exit, close, environ, isatty, open, read, stat, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, NoReturn

    from pspf.store.store import Store

COLLECT_AFTER = 100_000
"""Objects made, and not yet freed, before the garbage collector looks: more than any start makes."""

LARGEST_MODULE = 1 << 20


class OwnModules:
    """Finds modules of PSPF: ``pspf.a.b`` is ``a/b.py`` in the package, and its bytecode is beside it.

    It does what Python's own finder does, with the same check that the bytecode belongs to the source (time
    and size), and takes a third of the instructions since there is nothing to search. Whatever is unusual
    (no bytecode, another kind of it, another place) is left to Python's finder: None means "go on".
    """

    suffix = f".{sys.implementation.cache_tag}.pyc"
    spec = type(sys.__spec__)

    @classmethod
    def find_spec(
        cls, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if path is None or name[:5] != "pspf.":
            return None
        tail = name.rpartition(".")[2]
        source, cached, package = f"{path[0]}/{tail}.py", f"{path[0]}/__pycache__/{tail}{cls.suffix}", None
        try:
            try:
                descriptor = open(cached, O_CLOEXEC)
            except FileNotFoundError:
                package = [f"{path[0]}/{tail}"]
                source, cached = f"{package[0]}/__init__.py", f"{package[0]}/__pycache__/__init__{cls.suffix}"
                descriptor = open(cached, O_CLOEXEC)
            data = read(descriptor, LARGEST_MODULE)
            close(descriptor)
            state = stat(source)
        except OSError:
            return None
        expected = pack("<LLL", 0, int(state.st_mtime) & 0xFFFFFFFF, state.st_size & 0xFFFFFFFF)
        if data[4:16] != expected or len(data) == LARGEST_MODULE:
            return None
        spec = cls.spec(name, cls, origin=source, loader_state=data)  # type: ignore[arg-type]
        spec.has_location = True
        spec.cached = cached
        spec.submodule_search_locations = package
        return spec

    @staticmethod
    def create_module(spec: "ModuleSpec") -> None:
        """The default is right."""

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        spec: Any = module.__spec__
        code = loads(memoryview(spec.loader_state)[16:])
        spec.loader_state = None
        exec(code, module.__dict__)


def main() -> "NoReturn":
    """The command ``pspf``. Never returns."""
    gc.set_threshold(COLLECT_AFTER, 10, 10)
    if not sys.flags.optimize:
        sys.meta_path.insert(0, OwnModules)
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        from pspf.cli.descriptors import occupy

        occupy([stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)])
    _exit(run(sys.argv[1:]))


def run(words: "list[str]") -> int:
    """Do what command line ``words`` says; the exit code.

    Dies of SIGINT and SIGPIPE, as a shell expects.
    """
    signal_number = code = 0
    try:
        from pspf.cli.fast import parse

        call = parse(words)
        if call is not None:
            code = carry_out(*call)
        else:
            from pspf.cli.app import run_typer

            code = run_typer(words, carry_out)
        flush()
    except KeyboardInterrupt as interrupt:
        signal_number = interrupt.args[0] if interrupt.args else 2
    except BrokenPipeError:
        signal_number = 13
    except Exception as error:
        if environ.get("PSPF_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        from pspf.cli.failure import report

        code = report(error)
        try:
            flush()
        except Exception:
            pass  # one error is enough, and it has been told
    if code < 0:
        signal_number = -code
    if signal_number:
        from pspf.cli.signals import die_of

        code = die_of(signal_number)
    return code


def carry_out(module: "Any", name: str, common: "dict[str, Any]", arguments: "dict[str, Any]") -> int:
    """Call function ``name`` of a command's module with its options, and close what it opened.

    :returns: the exit code; below zero, the signal to die of.
    """
    conflicts = getattr(module, "CONFLICTS", ())
    needs = getattr(module, "NEEDS", ())
    if conflicts or needs:
        refuse_contradictions(conflicts, needs, arguments)
    invocation = Invocation(**common)
    invocation.topic = arguments.get("topic")
    try:
        return getattr(module, name)(invocation, **arguments) or 0
    finally:
        invocation.close()


def refuse_contradictions(
    conflicts: "Sequence[Sequence[str]]", needs: "Sequence[tuple[str, str]]", arguments: "dict[str, Any]"
) -> None:
    """Options that exclude each other, or mean nothing without another, are an error and never ignored.

    Of each tuple in ``conflicts`` one may be given; of each pair in ``needs`` the first needs the second.
    """
    for group in conflicts:
        given = [parameter for parameter in group if is_given(arguments[parameter])]
        if len(given) > 1:
            from pspf.cli.failure import contradiction

            raise contradiction(given)
    for parameter, other in needs:
        if is_given(arguments[parameter]) and not is_given(arguments[other]):
            from pspf.cli.failure import missing_companion

            raise missing_companion(parameter, other)


def is_given(value: "Any") -> bool:
    """Whether an option was given; 0 is a value."""
    return value is not None and value is not False


def flush() -> None:
    """Hand over what print() still holds; a full disk or a closed pipe shows here."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from pspf.errors import from_os

        raise from_os(error, "cannot write to standard output") from None


class Invocation:
    """One run of one command.

    :param store: the directory named by ``-s``; None when it was not given.
    :param color: ``always``, ``never`` or ``auto``; None when it was not given.

    ``topic`` is the one that the command is about, if it is about one.
    """

    __slots__ = ("color", "opened", "quiet", "store", "topic", "verbose")

    def __init__(
        self,
        store: "str | None" = None,
        quiet: bool = False,
        verbose: bool = False,
        color: "str | None" = None,
    ) -> None:
        if store == "":
            from pspf.cli.failure import no_directory

            raise no_directory()
        self.store = store
        self.quiet = quiet
        self.verbose = verbose
        self.color = color
        self.topic: "str | None" = None
        self.opened: "Store | None" = None

    def open(self, create: bool = False) -> "Store":
        """The store; closed by :meth:`close` however the command ends.

        What a crash left, and was settled or cut on opening, is said as a warning.

        :param create: make it when it is not there, and say where.
        """
        from pspf.store.open import open_store

        self.opened = store = open_store(self.store, create, tell=self.warn, topic=self.topic)
        if store.created:
            self.note(f"created store {store.path}")
        return store

    def close(self) -> None:
        """Close the store, if one was opened: the last act of a command, also of one that failed."""
        store, self.opened = self.opened, None
        if store is not None:
            store.close()

    def note_created(self, topic: str) -> None:
        """A topic came into being because something was appended to it."""
        self.note(f"created topic {topic}")

    def note(self, text: str) -> None:
        """Say what went well, to whoever is there to read it."""
        if self.talks():
            self.warn(text)

    def talks(self) -> bool:
        """Whether anybody wants to hear what went well."""
        return self.verbose or (not self.quiet and isatty(2))

    def warn(self, text: str) -> None:
        """Say what the user has to know."""
        if not self.quiet:
            complain(f"pspf: {text}\n")


def allow_files(count: int) -> None:
    """Let this process open so many files, as far as it may."""
    from pspf.cli.descriptors import allow

    allow(count)


def complain(text: str) -> None:
    """Write to standard error, which may be closed or full: a message is never a reason to fail."""
    try:
        write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass
