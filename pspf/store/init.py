"""Make a store: a directory with ``store.toml`` in it, written last."""

import os

from pspf import errors
from pspf.disk.atomic import replace_file
from pspf.disk.real import CREATE_EMPTY, Disk
from pspf.format.settings import encode
from pspf.store.open import FORMAT_VERSION, STORE_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.store.store import Store

RESERVE_BYTES = 1 << 20
_OURS = {"topics", "groups", "apps", "snapshots", "quarantine", "reserve", STORE_FILE, STORE_FILE + ".tmp"}
_REFUSED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "fuse", "fuseblk", "afs", "ceph"}


def init_store(
    path: str, shared: "str | bool | None" = None, force: bool = False, disk: "Disk | None" = None
) -> "Store":
    """Make a store in ``path`` and open it.

    :param shared: give the group access (modes 0770 and 0660); a string names the group.
    :param force: accept a network file system.
    :raises pspf.errors.Exists: there is a store already.
    """
    from pspf.store.open import open_store

    disk = disk or Disk()
    path = os.path.abspath(os.fspath(path))
    if not create_store(disk, path, shared, force):
        raise errors.Exists("cannot make a store", "there is one already", path)
    store = open_store(path, create=False, disk=disk)
    store.created = True
    return store


def create_store(disk: Disk, path: str, shared: "str | bool | None" = None, force: bool = False) -> bool:
    """Make the store unless it exists; False if it does.

    If we die half-way, the directory holds nothing but our own names and no ``store.toml``: the next call
    finishes.
    """
    gid = _group(shared) if isinstance(shared, str) else -1
    if shared:
        disk.umask_mode = 0o660
    try:
        _make_directories(disk, path)
        _refuse_network(path, force)
        dir_fd = disk.open_dir(path, follow=True)
        try:
            disk.lock(dir_fd)
            names = set(disk.listdir(dir_fd))
            if STORE_FILE in names:
                return False
            foreign = sorted(names - _OURS)
            if foreign:
                raise errors.NoSuchStore(
                    f"{path} is not a PSPF store",
                    f"it holds other files ({foreign[0]}{', …' if len(foreign) > 1 else ''})",
                    "",
                    "name an empty or new directory with: pspf -s DIR …",
                )
            if "topics" not in names:
                disk.mkdir("topics", dir_fd)
            if "reserve" not in names:
                _reserve(disk, dir_fd)
            if shared:
                _share(path, gid)
            values: "dict[str, str | int | bool]" = {
                "format_version": FORMAT_VERSION,
                "store_id": os.urandom(16).hex(),
                "created_ms": disk.now_ns() // 1_000_000,
            }
            if shared:
                values["shared"] = True
            replace_file(
                disk, dir_fd, STORE_FILE, encode(values, "PSPF store; pspf version says what can read it")
            )
        finally:
            disk.close(dir_fd)
    except OSError as error:
        raise errors.from_os(error, "cannot make a store", path) from error
    return True


def _make_directories(disk: Disk, path: str) -> None:
    missing = []
    at = path
    while at and at != "/":
        try:
            disk.stat_name(at)
            break
        except FileNotFoundError:
            missing.append(at)
            at = os.path.dirname(at)
    for directory in reversed(missing):
        try:
            disk.mkdir(directory)
        except FileExistsError:
            pass
        _sync_parent(disk, directory)


def _sync_parent(disk: Disk, path: str) -> None:
    """Sync the entry of ``path``. Should we die before, the first writer of a partition syncs all of them
    again.
    """
    try:
        parent = disk.open_dir(os.path.dirname(path) or "/", follow=True)
        try:
            disk.fsync(parent)
        finally:
            disk.close(parent)
    except OSError:
        pass  # a parent that we may not open or sync belongs to somebody else, and was there before


def _reserve(disk: Disk, dir_fd: int) -> None:
    """Room that recovery may give up on a full disk. Zeros may be stored as nothing, so it is no proof."""
    fd = disk.open("reserve", CREATE_EMPTY, dir_fd)
    try:
        disk.pwrite(fd, bytes(RESERVE_BYTES), 0)
    except OSError:
        pass  # a nearly full disk: a store without a reserve is better than none
    finally:
        disk.close(fd)


def _group(name: str) -> int:
    """Looked up before anything is made: a store half-made would be in the way of the next attempt."""
    import grp

    what = "cannot share the store"
    try:
        gid = grp.getgrnam(name).gr_gid
    except KeyError:
        raise errors.Usage(what, f"no group is named '{name}'", "", "getent group lists them") from None
    if os.geteuid() and gid not in (os.getegid(), *os.getgroups()):
        why = f"uid {os.geteuid()} is no member of the group '{name}'"
        raise errors.Denied(what, why, "", f"id lists your groups, or as root: usermod -aG {name} USER")
    return gid


def _share(path: str, gid: int) -> None:
    if gid >= 0:
        os.chown(path, -1, gid)
        os.chown(path + "/topics", -1, gid)
        os.chown(path + "/reserve", -1, gid)
    os.chmod(path, 0o2770)
    os.chmod(path + "/topics", 0o2770)


def _refuse_network(path: str, force: bool) -> None:
    """Locks and syncs of network and FUSE file systems do not mean what PSPF needs them to mean."""
    if force or environ_forces():
        return
    try:
        device = os.stat(path).st_dev
        mark = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
            for line in table:
                fields = line.split()
                kind = fields[fields.index("-") + 1]
                if fields[2] == mark and (kind in _REFUSED or kind.startswith("fuse.")):
                    raise errors.BadConfig(
                        "cannot keep a store here",
                        f"{kind} does not keep the promises that PSPF relies on",
                        path,
                        "choose a local disk, or insist with: PSPF_FORCE=1",
                    )
    except (OSError, ValueError, IndexError):
        return


def environ_forces() -> bool:
    """Whether the user insists (``PSPF_FORCE=1``)."""
    return os.environ.get("PSPF_FORCE") == "1"
