"""``pspf config``: the settings in force, and where each comes from."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.cli.main import Invocation
    from pspf.cli.options import Json
    from pspf.errors import Error

REPORTS = "setting"
EXIT_CODES = (0, 2, 77, 78)
EXAMPLES = (("pspf config", "which store a command would use, and why"),)
COLUMNS = (("name", "NAME", "text"), ("value", "VALUE", "text"), ("origin", "ORIGIN", "text"))


def config(cli: Invocation, json: Json = False) -> int:
    """Print each setting, its value, and where it was set.

    A flag wins over the environment (PSPF_STORE, PSPF_COLOR), that over $XDG_CONFIG_HOME/pspf/config.toml,
    that over /etc/pspf/config.toml, that over the default. What is wrong with a configuration file is named,
    left out, and makes the exit code 78.
    """
    from pspf.cli.failure import show
    from pspf.cli.output import json_lines, table
    from pspf.store.location import settings

    wrong: list[Error] = []
    rows = [
        {"name": name, "value": value, "origin": origin}
        for name, value, origin in settings(cli.store, wrong.append)
    ]
    if cli.color is not None:
        for row in rows:
            if row["name"] == "color":
                row.update(value=cli.color, origin="option --color")
    if json:
        json_lines(rows)
    else:
        cli.color = rows[-1]["value"]  # not asked for again: that would fail where something is wrong
        table(cli, COLUMNS, rows)
    code = 0
    for error in wrong:
        code = code or error.exit_code
        show(error)
    return code
