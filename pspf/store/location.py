"""Which directory is the store, and where each setting comes from.

Option, then environment, then ``$XDG_CONFIG_HOME/pspf/config.toml``, then ``/etc/pspf/config.toml``, then the
default. A configuration file is parsed only where there is one. There is no search upwards.
"""

from os import environ, path

from pspf import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Wrong = Callable[[errors.Error], None]

KNOWN = ("store", "color")
COLORS = ("auto", "always", "never")


def config_files() -> "list[str]":
    """The configuration files that would be read, the stronger one first."""
    home = environ.get("XDG_CONFIG_HOME") or (environ["HOME"] + "/.config" if environ.get("HOME") else "")
    return [f"{home}/pspf/config.toml"] * bool(home) + ["/etc/pspf/config.toml"]


def _raise(error: "errors.Error") -> None:
    raise error


def _load(file: str, wrong: "Wrong" = _raise) -> "dict[str, str]":
    """The settings in a file; each that is none is told, and left out."""
    what = "cannot read the configuration"
    try:
        with open(file, "rb") as stream:
            data = stream.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        wrong(errors.from_os(error, what, file))
        return {}
    import tomllib

    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        wrong(errors.BadConfig(what, str(error), file, "pspf config"))
        return {}
    except (ValueError, RecursionError) as error:  # of int() and of Python, in words that no user knows
        deep = isinstance(error, RecursionError)
        why = "it is nested too deeply" if deep else "a number in it has too many digits"
        wrong(errors.BadConfig(what, why, file, "pspf config"))
        return {}
    good = {}
    for name, value in values.items():
        if name not in KNOWN:
            hint = f"settings are: {', '.join(KNOWN)}; pspf config shows them"
            wrong(errors.BadConfig("unknown setting in the configuration", name, file, hint))
        elif not isinstance(value, str):
            why = f"{name} must be a string"
            wrong(errors.BadConfig("bad setting in the configuration", why, file, "pspf config"))
        else:
            good[name] = value
    return good


def setting(name: str, option: "str | None" = None) -> "tuple[str, str]":
    """One setting, and where it came from; ``option`` is what the command line says.

    :raises pspf.errors.BadConfig: a configuration file that cannot be understood, or a value that means
        nothing.
    """
    return _setting(name, option, [(file, _load(file, _raise)) for file in config_files()], _raise)


def settings(option: "str | None" = None, wrong: "Wrong" = _raise) -> "list[tuple[str, str, str]]":
    """Each setting as (name, value, where it came from); a store given as an option stands in ``option``.

    :param wrong: gets what is wrong with the configuration, which is then left out.
    """
    loaded = [(file, _load(file, wrong)) for file in config_files()]
    return [(name, *_setting(name, option if name == "store" else None, loaded, wrong)) for name in KNOWN]


def _setting(
    name: str, option: "str | None", loaded: "list[tuple[str, dict[str, str]]]", wrong: "Wrong"
) -> "tuple[str, str]":
    if option:
        return (_absolute(option) if name == "store" else option), f"option --{name}"
    variable = "PSPF_" + name.upper()
    given = [(environ.get(variable, ""), variable)]
    given += [(values.get(name, ""), file) for file, values in loaded]
    for value, origin in given:
        if not value:
            continue
        try:
            return (_color if name == "color" else _store)(value, origin, origin == variable), origin
        except errors.BadConfig as error:
            wrong(error)
    return _default(name), "default"


def _color(value: str, origin: str, _: bool) -> str:
    if value not in COLORS:
        why = f"{value!r} is none of: {', '.join(COLORS)}"
        raise errors.BadConfig("bad value for color", why, origin, "pspf config")
    return value


def _store(value: str, origin: str, variable: bool) -> str:
    """An absolute path. In a file a relative one would mean another store in every directory."""
    if value == "~" or value.startswith("~/"):
        home = environ.get("HOME")
        if not home:
            why = f"{value!r}, and there is no HOME"
            raise errors.BadConfig("bad value for store", why, origin, "pspf config")
        return home + value[1:]
    if "\0" in value:
        raise errors.BadConfig("bad value for store", "a path holds no NUL", origin, "pspf config")
    if not variable and not value.startswith("/"):
        why = f"{value!r} is relative; a path here begins with / or ~/"
        raise errors.BadConfig("bad value for store", why, origin, "pspf config")
    return _absolute(value)


def _absolute(value: str) -> str:
    return value if value.startswith("/") else path.normpath(path.abspath(value))


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
    if option:
        return _absolute(option)
    variable = environ.get("PSPF_STORE")
    chosen = _store(variable, "PSPF_STORE", True) if variable else setting("store")[0]
    if not chosen:
        raise errors.BadConfig(
            "no store was named",
            "and there is no HOME to keep one in",
            "",
            "name one with: pspf -s DIR …, or PSPF_STORE",
        )
    return chosen
