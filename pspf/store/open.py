"""Open a store: find it, check what it is, create it on first use."""

from os import environ, fspath

import pspf
from pspf.disk.real import Disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    import pspf.errors
    from pspf.store.store import Store

STORE_FILE = "store.toml"
FORMAT_VERSION = 1


def open_store(
    path: "str | PathLike[str] | None" = None,
    create: bool = True,
    read_only: bool = False,
    disk: "Disk | None" = None,
    tell: "Callable[[str], None] | None" = None,
    topic: "str | None" = None,
) -> "Store":
    """See :func:`pspf.open`; ``tell`` gets one line for each thing that recovery did.

    :param topic: what the store is wanted for: none is made for a name that it cannot hold.
    """
    from pspf.store.store import Store

    disk = disk or Disk()
    where = fspath(path) if path is not None else environ.get("PSPF_STORE") or ""
    if where[:1] != "/":
        from pspf.store.location import locate

        where = locate(None if path is None else where)
    created = False
    while True:
        try:
            dir_fd = disk.open_dir(where, follow=True)
        except FileNotFoundError:
            dir_fd = -1
        except NotADirectoryError:
            raise pspf.errors.NoSuchStore(
                f"{where} is not a PSPF store", "it is a file, not a directory"
            ) from None
        except OSError as error:
            raise pspf.errors.from_os(error, "cannot open the store", where) from None
        values = None
        if dir_fd >= 0:
            try:
                values = _read(disk, dir_fd, where, read_only, tell)
            except BaseException:
                disk.close(dir_fd)
                raise
        if values is not None:
            break
        if dir_fd >= 0:
            disk.close(dir_fd)
        if not create or created or read_only:
            why = (
                "the directory is empty or holds other files" if dir_fd >= 0 else "there is no such directory"
            )
            raise pspf.errors.NoSuchStore(
                f"no store in {where}", why, "", "make one with: pspf init DIR, or name another with -s DIR"
            )
        if topic is not None:
            from pspf.store.topics import check_name

            check_name(topic)
        from pspf.store.init import create_store

        created = create_store(disk, where)
    if values.get("shared"):
        disk.umask_mode = 0o660
    return Store(disk, where, dir_fd, str(values.get("store_id", "")), created, read_only, tell)


def _read(
    disk: Disk, dir_fd: int, where: str, read_only: bool, tell: "Callable[[str], None] | None"
) -> "dict[str, str | int | bool] | None":
    """The values of ``store.toml``; None where there is no store."""
    from pspf.format.settings import BadSettings, decode

    try:
        data = disk.read_file(STORE_FILE, 1 << 16, dir_fd)
    except FileNotFoundError:
        from pspf.store.lost import has_topics, rebuild

        if has_topics(disk, dir_fd):
            return rebuild(disk, dir_fd, where, "is missing", read_only, tell)
        return None
    except OSError as error:
        raise pspf.errors.from_os(error, "cannot open the store", f"{where}/{STORE_FILE}") from None
    try:
        values = decode(data)
    except BadSettings as error:
        from pspf.store.lost import rebuild

        return rebuild(disk, dir_fd, where, f"is damaged ({error})", read_only, tell)
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise pspf.errors.NewerFormat(
            f"cannot open the store {where}",
            f"its format is version {version}, this PSPF reads up to {FORMAT_VERSION}",
            "",
            "upgrade with: pip install --upgrade pspf-streams",
        )
    return values
