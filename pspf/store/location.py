"""Which directory is the store, and where each setting comes from.

Option, then environment, then ``$XDG_CONFIG_HOME/pspf/config.toml``, then ``/etc/pspf/config.toml``, then the
default. A configuration file is parsed only where there is one. There is no search upwards.
"""

from os import environ, path

from pspf import errors

KNOWN = ("store", "color")


def config_files() -> "list[str]":
    """The configuration files that would be read, the stronger one first."""
    home = environ.get("XDG_CONFIG_HOME") or (environ["HOME"] + "/.config" if environ.get("HOME") else "")
    return [f"{home}/pspf/config.toml"] * bool(home) + ["/etc/pspf/config.toml"]


def _load(file: str) -> "dict[str, object] | None":
    try:
        with open(file, "rb") as stream:
            data = stream.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise errors.from_os(error, "cannot read the configuration", file) from None
    import tomllib

    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.BadConfig("cannot read the configuration", str(error), file) from None
    for name, value in values.items():
        if name not in KNOWN:
            raise errors.BadConfig("unknown setting in the configuration", name, file, "pspf config")
        if not isinstance(value, str):
            raise errors.BadConfig("bad setting in the configuration", f"{name} must be a string", file)
    return values


def settings(option: "str | None" = None) -> "list[tuple[str, str, str]]":
    """Each setting as (name, value, where it came from); a store given as an option stands in ``option``."""
    loaded = [(file, _load(file)) for file in config_files()]
    rows = []
    for name in KNOWN:
        value, origin = _default(name), "default"
        for file, values in reversed(loaded):
            if values and name in values:
                value, origin = str(values[name]), file
        variable = "PSPF_" + name.upper()
        if environ.get(variable):
            value, origin = environ[variable], variable
        if name == "store" and option:
            value, origin = option, "option --store"
        rows.append((name, value, origin))
    return rows


def _default(name: str) -> str:
    if name == "store":
        data = environ.get("XDG_DATA_HOME") or (
            environ["HOME"] + "/.local/share" if environ.get("HOME") else ""
        )
        return data + "/pspf" if data else ""
    return "auto"


def locate(option: "str | None" = None) -> str:
    """Absolute path of the store.

    :raises pspf.errors.BadConfig: none was named, and there is no HOME to put one in.
    """
    chosen = option or environ.get("PSPF_STORE")
    if not chosen:
        chosen = settings()[0][1]
    if not chosen:
        raise errors.BadConfig(
            "no store was named",
            "and there is no HOME to keep one in",
            "",
            "name one with: pspf -s DIR …, or PSPF_STORE",
        )
    return chosen if chosen.startswith("/") else path.normpath(path.abspath(chosen))
