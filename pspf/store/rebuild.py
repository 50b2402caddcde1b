"""A topic's settings where ``topic.toml`` does not check: segment headers repeat them."""

from pspf import errors
from pspf.disk.atomic import replace_file
from pspf.format.segment import SEGMENT_HEADER_BYTES, base_of, parse_segment, segment_fault
from pspf.format.settings import BadSettings, decode, encode
from pspf.store.topics import TOPIC_FILE, split_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.disk.real import Disk


def looks_whole(data: bytes) -> bool:
    """Whether a file whose checksum fails would be valid otherwise: somebody may have meant it."""
    try:
        split_values(decode(data, check=False), "")
    except (BadSettings, errors.Error):
        return False
    return True


def rebuild(
    disk: "Disk",
    dir_fd: int,
    name: str,
    where: str,
    fault: str,
    read_only: bool,
    tell: "Callable[[str], None] | None",
) -> "dict[str, str | int | bool]":
    """``topic.toml`` from the newest segment header that repeats it."""
    for entry in sorted(disk.listdir(dir_fd)):
        if not entry.isdecimal():
            continue
        partition_fd = disk.open_dir(entry, dir_fd)
        try:
            names = sorted((n for n in disk.listdir(partition_fd) if base_of(n) >= 0), reverse=True)
            for segment in names:
                block = disk.read_file(segment, SEGMENT_HEADER_BYTES, partition_fd)
                if segment_fault(block):
                    continue
                try:
                    values = decode(parse_segment(block).settings)
                except BadSettings:
                    continue
                values["name"] = name
                note = f"{where} {fault}"
                if not read_only:
                    try:
                        replace_file(disk, dir_fd, TOPIC_FILE, encode(values))
                        note += "; it was rebuilt from a segment header"
                    except OSError:
                        pass
                if tell is not None:
                    tell(note)
                return values
        finally:
            disk.close(partition_fd)
    raise errors.Damaged(
        f"cannot open topic '{name}'",
        f"{TOPIC_FILE} {fault}, and no segment repeats its settings",
        where,
        f"write one and take it in with: pspf topic alter {name} --from FILE",
        path=where,
    )
