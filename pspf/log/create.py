"""Make a partition's directory, or its next segment, so that a final name always has whole contents."""

from os import urandom

from pspf.disk.real import CREATE_EMPTY, CREATE_NEW
from pspf.format.segment import REASON_FIRST, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name
from pspf.format.slots import Commit, Start, fold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.disk.real import Disk
    from pspf.format.batch import Encoded
    from pspf.log.files import Identity, PartitionFiles, Segment

ROLL_TEMPORARY = "roll.tmp"


def random_id() -> int:
    """64 random bits that are not zero."""
    return int.from_bytes(urandom(8), "little") or 1


def create_partition(disk: "Disk", topic_fd: int, identity: "Identity", base: int = 0) -> None:
    """Make the directory of a partition with an empty segment in it, unless somebody else was first.

    It is built in ``.new-PARTITION``, synced, and renamed, all under the lock of that directory: a builder
    who lives is waited for, and what one who was killed left behind is removed by the next to make this
    partition. Whoever gets the lock looks whether the directory still has the name, since its builder may
    have renamed or removed it. The entry in the topic's directory is synced by whoever opens the partition
    first (flag LINKED): nobody may acknowledge into a directory that a power cut takes away.
    """
    from errno import EEXIST, ENOTEMPTY

    from pspf.disk.atomic import remove_tree

    name = str(identity.partition)
    temporary = f".new-{name}"
    while not disk.exists(name, topic_fd):
        try:
            disk.mkdir(temporary, topic_fd)
        except FileExistsError:
            pass
        try:
            dir_fd = disk.open_dir(temporary, topic_fd)
        except FileNotFoundError:
            continue
        try:
            disk.lock(dir_fd)
            if not _has_name(disk, dir_fd, temporary, topic_fd):
                continue
            try:
                if not disk.listdir(dir_fd):
                    _fill(disk, dir_fd, identity, base)
                    disk.rename(temporary, name, topic_fd)
                    return
            except BaseException as error:
                try:
                    remove_tree(disk, topic_fd, temporary)
                except OSError:
                    pass  # what failed first is told
                if isinstance(error, OSError) and error.errno in (EEXIST, ENOTEMPTY):
                    continue  # another process was first
                raise
            remove_tree(disk, topic_fd, temporary)
        finally:
            disk.close(dir_fd)


def _has_name(disk: "Disk", dir_fd: int, name: str, above_fd: int) -> bool:
    try:
        return disk.stat_name(name, above_fd).st_ino == disk.stat(dir_fd).st_ino
    except FileNotFoundError:
        return False


def _fill(disk: "Disk", dir_fd: int, identity: "Identity", base: int) -> None:
    header = SegmentHeader(
        random_id(),
        identity.topic_id,
        identity.partition,
        base,
        created_ns=disk.now_ns(),
        log_start=base,
        settings=identity.settings,
    )
    topic_fold = fold(identity.topic_id)
    place = SEGMENT_HEADER_BYTES
    commit = Commit(0, 1, 0, base, base, base, place, place, 0, topic_fold)
    for name, data in (
        ("commit", commit.encode().ljust(1024, b"\0")),  # first: a live copy then has it older than the log
        ("start", Start(0, 1, base, base, topic_fold).encode().ljust(1024, b"\0")),
        ("lock", bytes(64)),
        (segment_name(base), header.encode()),
    ):
        fd = disk.open(name, CREATE_NEW, dir_fd)
        try:
            disk.pwrite(fd, data, 0)
            disk.fsync(fd)
        finally:
            disk.close(fd)
    disk.fsync(dir_fd)


def create_segment(
    files: "PartitionFiles", header: SegmentHeader, first: "Encoded | None" = None
) -> "Segment":
    """Write the segment of ``header`` (and a first control batch), sync it, and give it its final name.

    If we die before the rename, ``roll.tmp`` stays and is overwritten by the next roll; behind it, the
    successor is found
    by its name, which is the end offset of the segment before.

    :raises OSError: nothing has its final name, unless it came from the sync of the directory.
    """
    disk = files.disk
    block = header.encode()
    fd = disk.open(ROLL_TEMPORARY, CREATE_EMPTY, files.dir_fd)
    try:
        disk.pwrite(fd, block, 0)
        if first is not None:
            sealed = first.seal(
                header.base,
                header.epoch,
                header.created_ns,
                header.segment_id,
                len(block),
                header.crc,
                header.base,
                0,
            )
            disk.pwritev(fd, [sealed, *first.parts], len(block))
        disk.fsync(fd)
        disk.rename(ROLL_TEMPORARY, segment_name(header.base), files.dir_fd)
        disk.fsync(files.dir_fd)
    except BaseException:
        disk.close(fd)
        try:
            disk.unlink(ROLL_TEMPORARY, files.dir_fd)  # a full disk needs the room
        except OSError:
            pass
        raise
    from pspf.log.files import Segment

    return Segment(fd, header.base, header, header.segment_id)


def first_header(identity: "Identity", base: int, now_ns: int) -> SegmentHeader:
    """Header of a segment without a predecessor."""
    return SegmentHeader(
        random_id(),
        identity.topic_id,
        identity.partition,
        base,
        created_ns=now_ns,
        log_start=base,
        reason=REASON_FIRST,
        settings=identity.settings,
    )
