"""``pspf version``: which PSPF this is."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.cli.main import Invocation
    from pspf.cli.options import Json

REPORTS = "version"
EXIT_CODES = (0, 2)
EXAMPLES = (("pspf version -v", "with Python, the system, and the libraries at hand"),)


def version(cli: Invocation, json: Json = False) -> None:
    """Print the version.

    With -v also Python, the system, and which optional libraries are at hand.
    """
    from pspf import __version__

    if not json and not cli.verbose:
        print(f"pspf {__version__}")
        return
    import platform
    from importlib.util import find_spec

    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "isal": find_spec("isal") is not None,
        "zstandard": find_spec("zstandard") is not None,
    }
    if json:
        from pspf.cli.output import json_lines

        json_lines([facts])
        return
    print(f"pspf {__version__}")
    for name, value in list(facts.items())[1:]:
        print(f"{name}: {value if isinstance(value, str) else 'yes' if value else 'no'}")
