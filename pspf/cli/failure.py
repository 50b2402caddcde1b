"""Errors as a user sees them: one line, one hint, and the exit code.

Errors of PSPF, of the command line, of the operating system and of the program itself all look alike:
``pspf: WHAT: WHY (WHERE)``, then ``hint: …``.
"""

from pspf.cli.main import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.errors import Error, Usage

INTERNAL_ERROR = 70
"""Exit code of a defect in PSPF itself (EX_SOFTWARE)."""


def report(error: Exception) -> int:
    """Print ``error`` to standard error; the exit code."""
    from pspf.errors import Error, from_os

    if isinstance(error, OSError):
        # The library names what it was doing; what comes here without a file is what was printed.
        error = from_os(error, "cannot go on" if error.filename else "cannot write to standard output")
    if isinstance(error, Error):
        return show(error)
    line = f"internal error: {type(error).__name__}: {error}"
    return show_line(
        line + place_of(error), "run it again with PSPF_DEBUG=1 and report what it prints", INTERNAL_ERROR
    )


def show(error: "Error") -> int:
    """Print an error of PSPF; its exit code."""
    return show_line(str(error), error.hint, error.exit_code)


def show_line(line: str, hint: str, code: int) -> int:
    """Print one line, and the hint if there is one."""
    text = f"pspf: {one_line(line)}\n"
    if hint:
        text += f"hint: {one_line(hint)}\n"
    complain(text)
    return code


def one_line(text: str) -> str:
    """``text`` without anything that would break the line or drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def place_of(error: Exception) -> str:
    """`` (FILE:LINE)`` of the innermost frame."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f" ({name}:{trace.tb_lineno})"


def spelling(parameter: str) -> str:
    """The long option of a function's parameter; a test holds every option to this rule."""
    return "--" + parameter.rstrip("_").replace("_", "-")


def no_directory() -> "Usage":
    """``-s ""``: most likely a variable that is not set, and no reason to take another store."""
    from pspf.errors import Usage

    return Usage("--store names no directory", "it is empty", hint="pspf -s DIR …, or leave it out")


def empty(what: str, hint: str) -> "Usage":
    """An argument without a character in it: most likely a variable that is not set."""
    from pspf.errors import Usage

    return Usage(f"{what} is empty", hint=hint)


def contradiction(given: "list[str]") -> "Usage":
    """Options that exclude each other were given together."""
    from pspf.errors import Usage

    options = [spelling(parameter) for parameter in given]
    return Usage(f"{' and '.join(options)} exclude each other", hint="give one of them")


def missing_companion(parameter: str, other: str) -> "Usage":
    """An option that means nothing without another was given alone."""
    from pspf.errors import Usage

    return Usage(f"{spelling(parameter)} needs {spelling(other)}")
