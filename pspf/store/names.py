"""Names of topics and producers, checked before any path is made of them."""

from pspf import errors
from pspf.model import MAX_NAME

_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def check_name(name: str, kind: str = "topic") -> str:
    """``name`` if it may be one.

    :raises pspf.errors.BadName: empty, too long, dots only, or with a character outside ``A-Za-z0-9._-``.
    """
    why = ""
    if not name:
        why = "it is empty"
    elif len(name) > MAX_NAME:
        why = f"it has {len(name)} characters, at most {MAX_NAME} are allowed"
    elif name in (".", ".."):
        why = "it names a directory"
    elif not _ALLOWED.issuperset(name):
        bad = next(c for c in name if c not in _ALLOWED)
        why = f"it holds {ascii(bad)}; allowed are A-Z a-z 0-9 . _ -"
    elif name.startswith((".new-", ".del-")):
        why = "names that begin with .new- or .del- are kept for PSPF"
    if why:
        shown = ascii(name if len(name) < 60 else name[:57] + "...")
        raise errors.BadName(f"bad {kind} name {shown}", why)
    return name
