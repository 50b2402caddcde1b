"""PSPF: an embeddable log of event streams in one directory.

``pspf.open(dir)`` gives a :class:`pspf.store.store.Store`. Everything else is imported when it is first
used, because a command in a shell loop pays for each import at every start.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike

    from pspf.errors import Error
    from pspf.model import Appended, Record, TopicConfig
    from pspf.store.select import Selection
    from pspf.store.store import Store

__all__ = ["Appended", "Error", "Record", "Selection", "Store", "TopicConfig", "open"]


def open(
    path: "str | PathLike[str] | None" = None, *, create: bool = True, read_only: bool = False
) -> "Store":
    """Open the store in directory ``path``, creating it if it does not exist.

    :param path: store directory; ``None`` takes ``PSPF_STORE``, the configuration files, then
        ``$XDG_DATA_HOME/pspf``.
    :param create: make the store when the directory is missing or empty; otherwise that is
        :class:`pspf.errors.NoSuchStore`.
    :param read_only: never write, not even to settle what a crash left; works without write permission.
    :raises pspf.errors.NoSuchStore: nothing there, or a directory that holds something else.
    :raises pspf.errors.NewerFormat: the store was written by a later version of PSPF.
    """
    import pspf.errors
    import pspf.store.missing  # noqa: F401  # now: when something fails, nothing more can be imported, perhaps
    from pspf.store.open import open_store

    return open_store(path, create=create, read_only=read_only)


def __getattr__(name: str) -> object:
    if name == "errors":  # what goes well never needs them: twenty-five classes cost a tenth of a start
        import pspf.errors

        return pspf.errors
    if name == "Store":
        from pspf.store.store import Store

        return Store
    if name == "Selection":
        from pspf.store.select import Selection

        return Selection
    if name in ("Appended", "Record", "TopicConfig"):
        import pspf.model

        return getattr(pspf.model, name)
    if name == "Error":
        from pspf.errors import Error

        return Error
    raise AttributeError(f"module 'pspf' has no attribute {name!r}")
