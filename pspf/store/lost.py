"""A store whose ``store.toml`` is missing or damaged."""

from os import urandom

from pspf.disk.atomic import replace_file
from pspf.format.settings import encode
from pspf.store.open import FORMAT_VERSION, STORE_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.disk.real import Disk


def has_topics(disk: "Disk", dir_fd: int) -> bool:
    """Whether a directory without ``store.toml`` is a store all the same."""
    try:
        topics_fd = disk.open_dir("topics", dir_fd)
    except OSError:
        return False
    try:
        for name in disk.listdir(topics_fd):
            try:
                topic_fd = disk.open_dir(name, topics_fd)
            except OSError:
                continue
            try:
                if any(n == "topic.toml" or n.isdecimal() for n in disk.listdir(topic_fd)):
                    return True
            finally:
                disk.close(topic_fd)
    finally:
        disk.close(topics_fd)
    return False


def rebuild(
    disk: "Disk", dir_fd: int, where: str, fault: str, read_only: bool, tell: "Callable[[str], None] | None"
) -> "dict[str, str | int | bool]":
    """``store.toml`` holds nothing that cannot be made anew: topics are known by their own ids."""
    values: "dict[str, str | int | bool]" = {
        "format_version": FORMAT_VERSION,
        "store_id": urandom(16).hex(),
        "created_ms": disk.now_ns() // 1_000_000,
    }
    if disk.stat(dir_fd).st_mode & 0o2070 == 0o2070:  # as init_store leaves a shared one, and nobody else
        values["shared"] = True
        disk.umask_mode = 0o660
    note = f"{where}/{STORE_FILE} {fault}"
    if not read_only:
        try:
            replace_file(disk, dir_fd, STORE_FILE, encode(values, "PSPF store, rebuilt"))
            note += "; it was rebuilt"
        except OSError:
            pass
    if tell is not None:
        tell(note)
    return values
