"""Look at a topic or a partition without touching it: nothing is locked, settled, made or cached.

What describes, inspects and verifies must work on a damaged partition as on a whole one, and beside any
number of writers. So it opens the directory itself, takes ``commit``, ``lock`` and ``start`` as they are at
that instant, and treats what does not check as not there.
"""

from stat import S_ISDIR

from pspf import errors
from pspf.disk.real import READ, Disk
from pspf.format.slots import (
    FILE_BYTES,
    SLOT_BYTES,
    NewerSlot,
    fold,
    newest_commit,
    newest_start,
    parse_lock,
)
from pspf.log.files import Identity, PartitionFiles
from pspf.store.topics import check_name, load_topic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.slots import Commit, LockRecord, Start
    from pspf.store.store import Store
    from pspf.store.topics import Topic


class PartitionView(PartitionFiles):
    """The files of a partition for somebody who only looks; a missing ``commit`` or ``lock`` is no error
    here.

    The descriptor of the directory belongs to the view from then on.
    """

    __slots__ = ()

    def __init__(self, disk: Disk, identity: Identity, dir_fd: int) -> None:
        self.disk = disk
        self.identity = identity
        self.dir_fd = dir_fd
        self.writable = False
        self.topic_fold = fold(identity.topic_id)
        self.lock_fd = self.commit_fd = -1

    def small(self, name: str, length: int = FILE_BYTES) -> "bytes | None":
        """The first bytes of a small file; None where there is none that can be opened."""
        try:
            fd = self.disk.open(name, READ, self.dir_fd)
        except OSError:
            return None
        try:
            return self.disk.pread(fd, length, 0)
        finally:
            self.disk.close(fd)

    def read_commit(self) -> "Commit | None":
        """The newest valid slot of ``commit``; None where there is none."""
        data = self.small("commit")
        try:
            return newest_commit(data, self.topic_fold) if data is not None else None
        except NewerSlot:
            raise self.newer("commit") from None

    def read_lock_hint(self) -> "LockRecord | None":
        """The record in ``lock``, read without its lock: a hint that may be old or torn."""
        data = self.small("lock", SLOT_BYTES)
        try:
            return parse_lock(data) if data is not None else None
        except NewerSlot:
            raise self.newer("lock") from None

    def read_start(self) -> "Start | None":
        """The newest valid slot of ``start``; None where there is none."""
        data = self.small("start")
        try:
            return newest_start(data, self.topic_fold) if data is not None else None
        except NewerSlot:
            raise self.newer("start") from None


class TopicView:
    """A topic opened past the store's cache, so that a list of thousands keeps no descriptors."""

    __slots__ = ("store", "topic")

    def __init__(self, store: "Store", name: str) -> None:
        """Open the topic ``name``.

        :raises pspf.errors.NoSuchTopic: there is none.
        :raises pspf.errors.Damaged: its settings cannot be read.
        """
        store._usable()
        check_name(name)
        topic = load_topic(
            store.disk, store.topics_fd, f"{store.path}/topics", name, store.read_only, store.tell
        )
        if topic is None:
            raise store.no_such_topic(name)
        self.store = store
        self.topic: "Topic" = topic

    def __enter__(self) -> "TopicView":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: a topic closes its directory when nobody holds it any more."""

    def existing(self) -> "list[int]":
        """Numbers of the partitions that were ever appended to, ascending."""
        names = self.store.disk.listdir(self.topic.dir_fd)
        return sorted(int(n) for n in names if is_partition_name(n) and int(n) < self.topic.config.partitions)

    def partition(self, number: int) -> "PartitionView | None":
        """Partition ``number``; None where nothing was ever appended to it."""
        disk, topic = self.store.disk, self.topic
        try:
            dir_fd = disk.open_dir(str(number), topic.dir_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            path = f"{topic.path}/{number}"
            if isinstance(error, NotADirectoryError) or error.errno == 40:  # ELOOP: a planted symlink
                raise errors.Damaged(
                    f"cannot read {topic.name}/{number}", "it is not a directory", path, path=path
                ) from None
            raise errors.from_os(error, f"cannot read {topic.name}/{number}", path) from None
        return PartitionView(disk, topic.identity(number, f"{self.store.path}/quarantine"), dir_fd)


def topic_names(store: "Store") -> "list[str]":
    """Names of what can be topics, sorted: directories with a topic's name, and no symlinks."""
    names = []
    for name in sorted(store.disk.listdir(store.topics_fd)):
        try:
            check_name(name)
            if S_ISDIR(store.disk.stat_name(name, store.topics_fd).st_mode):
                names.append(name)
        except (errors.BadName, FileNotFoundError):
            continue  # somebody else's, a create or delete that is not done, or deleted while we looked
    return names


def is_partition_name(name: str) -> bool:
    """Whether a directory's name is a partition's: a number without leading zeros."""
    return name.isascii() and name.isdecimal() and (name == "0" or name[0] != "0") and len(name) <= 5
