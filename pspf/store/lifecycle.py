"""Create, alter, rename and delete topics. Who changes a name holds the lock of ``topics``."""

from errno import ELOOP, ENOTDIR
from os import urandom

from pspf import errors
from pspf.disk.atomic import remove_tree, replace_file, sync_ancestors
from pspf.disk.real import CREATE_NEW, WRITE
from pspf.format.settings import BadSettings, decode, encode
from pspf.format.slots import FILE_BYTES, FLAG_DELETED, NewerSlot, newest_commit, parse_lock
from pspf.log.end import copy_slot
from pspf.model import TopicConfig
from pspf.store.counts import counts_below, earlier_counts
from pspf.store.topics import TOPIC_FILE, Topic, check_name, check_settings, split_values, topic_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.disk.real import Disk
    from pspf.store.store import Store

_NO_INPUT = 66


def create_topic(store: "Store", name: str, config: "TopicConfig | None" = None) -> None:
    """Make a topic: one temporary directory and one rename, whatever the number of partitions.

    :raises pspf.errors.Exists: there is one of that name.
    """
    check_name(name)
    config = check_settings(dict((config or TopicConfig()).items()))
    disk, topics_fd = store.disk, store.topics_fd
    store.writable(f"create topic '{name}'")
    try:
        store.lock_names()
        try:
            _finish_leftovers(store)
            if _there(store, name):
                raise errors.Exists(
                    f"cannot create topic '{name}'", "it exists already", "", f"pspf topic describe {name}"
                )
            topic_id = urandom(16)
            temporary = f".new-{topic_id.hex()}"
            disk.mkdir(temporary, topics_fd)
            dir_fd = disk.open_dir(temporary, topics_fd)
            try:
                data = encode(topic_values(name, topic_id, disk.now_ns() // 1_000_000, config))
                fd = disk.open(TOPIC_FILE, CREATE_NEW, dir_fd)
                try:
                    disk.pwrite(fd, data, 0)
                    disk.fsync(fd)
                finally:
                    disk.close(fd)
                disk.fsync(dir_fd)
            finally:
                disk.close(dir_fd)
            # Dying before the rename leaves a .new- directory, which the next create or delete removes.
            disk.rename(temporary, name, topics_fd)
            sync_ancestors(disk, f"{store.path}/topics/{name}", 2)
        finally:
            store.unlock_names()
    except OSError as error:
        raise errors.from_os(error, f"cannot create topic '{name}'", f"{store.path}/topics/{name}") from error


def _there(store: "Store", name: str) -> bool:
    try:
        store.disk.stat_name(name, store.topics_fd)
        return True
    except FileNotFoundError:
        return False


def _finish_leftovers(store: "Store") -> None:
    """Remove what was deleted, and what a create or delete that was killed left behind; the lock of
    ``topics`` is held. Handles that are still open are told first, by a flag: nobody may acknowledge records
    in files that have no name any more.
    """
    names = store.disk.listdir(store.topics_fd)
    if any(name.startswith(".del-") for name in names):
        # The commit point of a delete, also of one that was killed before it: a power cut must not bring back
        # half of a topic.
        store.disk.fsync(store.topics_fd)
    for name in names:
        if name.startswith(".del-"):
            _flag_deleted(store, name)
        if name.startswith((".new-", ".del-")):
            remove_tree(store.disk, store.topics_fd, name)


def _rewrite(store: "Store", topic: Topic, config: TopicConfig) -> None:
    counts = counts_below(config.partitions, topic.config.partitions, *topic.counts)
    values = topic_values(topic.name, topic.topic_id, topic.created_ms, config, counts)
    try:
        replace_file(store.disk, topic.dir_fd, TOPIC_FILE, encode(values))
    except OSError as error:
        raise errors.from_os(
            error, f"cannot alter topic '{topic.name}'", f"{topic.path}/{TOPIC_FILE}"
        ) from error
    store.forget(topic.name)


def alter_topic(store: "Store", name: str, changes: "dict[str, object]") -> TopicConfig:
    """Change settings; what runs already goes on with the old ones until it opens the topic again.

    :raises pspf.errors.BadConfig: a setting or value that does not exist, or fewer partitions.
    """
    store.writable(f"alter topic '{name}'")
    store.lock_names()
    try:
        store.forget(name)
        topic = store.topic(name)
        if "partitions" in changes:
            total = changes["partitions"]
            if not isinstance(total, int) or total <= topic.config.partitions:
                raise errors.Usage(
                    f"cannot set the partitions of topic '{name}' to {total}",
                    f"it has {topic.config.partitions}, and partitions can only be added",
                )
        config = check_settings({**dict(topic.config.items()), **changes})
        _rewrite(store, topic, config)
        return config
    finally:
        store.unlock_names()


def alter_topic_from(store: "Store", name: str, path: str) -> TopicConfig:
    """Take in a ``topic.toml`` that was changed by hand; its checksum is made anew.

    The topic stays what it is, whatever topic the file was of: its id, and the time of its creation.

    :raises pspf.errors.Malformed: the file does not parse.
    """
    store.writable(f"alter topic '{name}'")
    check_name(name)
    what = f"cannot alter topic '{name}'"
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 16)
    except FileNotFoundError:
        missing = errors.Error(what, "no such file", path)
        missing.exit_code = _NO_INPUT
        raise missing from None
    except OSError as error:
        raise errors.from_os(error, what, path) from None
    try:
        values = decode(data, check=False)
    except BadSettings as error:
        raise errors.Malformed(what, str(error), path) from None
    disk = store.disk
    store.lock_names()
    try:
        store.forget(name)
        try:
            dir_fd = disk.open_dir(name, store.topics_fd)
        except FileNotFoundError:
            raise store.no_such_topic(name) from None
        try:
            log, there = _settings_of_log(store, dir_fd), _settings_there(store, dir_fd)
            for key in ("topic_id", "created_ms", "format_version"):
                if key in log or key in there:
                    values[key] = log[key] if key in log else there[key]
                elif key == "topic_id" and _id_is_taken(store, name, values.get(key)):
                    values[key] = urandom(16).hex()
            try:
                topic_id, created_ms, config = split_values(values, path)
            except errors.Damaged as error:
                raise errors.Malformed(what, error.why, path) from None
            counts = [p for p in (log.get("partitions"), there.get("partitions")) if isinstance(p, int)]
            before = max(counts, default=0)
            if config.partitions < before:
                why = f"it has {before} partitions, and they can only be added"
                raise errors.BadConfig(what, why, path)
            for said in (values, log, there):
                counts += earlier_counts(said)
            known = topic_values(name, topic_id, created_ms, config, counts_below(config.partitions, *counts))
            replace_file(disk, dir_fd, TOPIC_FILE, encode(known))
        finally:
            disk.close(dir_fd)
        return config
    finally:
        store.unlock_names()


def _settings_of_log(store: "Store", dir_fd: int) -> "dict[str, str | int | bool]":
    """What the segments say the topic is; its id is theirs, whatever a file changed by hand says."""
    from pspf.store.rebuild import rebuild

    try:
        return rebuild(store.disk, dir_fd, "", "", "", True, None)
    except errors.Damaged:
        return {}


def _settings_there(store: "Store", dir_fd: int) -> "dict[str, str | int | bool]":
    """What the topic's own file says, whole or not: only what cannot be anything else is taken from it."""
    try:
        values = decode(store.disk.read_file(TOPIC_FILE, 1 << 16, dir_fd), check=False)
    except (OSError, BadSettings):
        return {}
    try:
        split_values(values, "")
    except errors.Error:
        return {}
    return values


def _id_is_taken(store: "Store", name: str, topic_id: object) -> bool:
    """Whether another topic has that id."""
    for other in store.topics():
        if other != name:
            try:
                dir_fd = store.disk.open_dir(other, store.topics_fd)
            except OSError:
                continue
            try:
                if _settings_there(store, dir_fd).get("topic_id") == topic_id:
                    return True
            finally:
                store.disk.close(dir_fd)
    return False


def rename_topic(store: "Store", old: str, new: str) -> None:
    """Give a topic another name; open writers and readers go on."""
    check_name(new)
    store.writable(f"rename topic '{old}'")
    disk = store.disk
    store.lock_names()
    try:
        store.forget(old)  # its settings are written again: they must be the ones in force
        topic = store.topic(old)
        if _there(store, new):
            raise errors.Exists(f"cannot rename topic '{old}' to '{new}'", "a topic of that name exists")
        # Until the new name is synced the file inside says the old one: who finds that, syncs (load_topic).
        _rewrite(store, topic, topic.config)
        disk.rename(old, new, store.topics_fd)
        disk.fsync(store.topics_fd)
        # The directory's name counts; the one inside the file is only for a rebuild, and follows.
        topic.name = new
        _rewrite(store, topic, topic.config)
        store.forget(old)
    except OSError as error:
        raise errors.from_os(error, f"cannot rename topic '{old}'", f"{store.path}/topics/{old}") from error
    finally:
        store.unlock_names()


def delete_topic(store: "Store", name: str) -> None:
    """Delete a topic and all its records.

    The synced rename is the commit point: dying before it leaves the topic whole, behind it the next create
    or delete
    finishes. Then every partition is flagged under its lock, so that handles which are still open notice;
    who opens one later finds that its path does not lead there (``log/others.py``).
    """
    store.writable(f"delete topic '{name}'")
    disk = store.disk
    store.lock_names()
    try:
        check_name(name)
        if not _there(store, name):
            raise store.no_such_topic(name)
        store.forget(name)
        doomed = f".del-{urandom(16).hex()}"
        disk.rename(name, doomed, store.topics_fd)
        _finish_leftovers(store)
    except OSError as error:
        raise errors.from_os(error, f"cannot delete topic '{name}'", f"{store.path}/topics/{name}") from error
    finally:
        store.unlock_names()


def _flag_deleted(store: "Store", directory: str) -> None:
    """Behind the commit point nothing that a stray name is may stop it."""
    disk = store.disk
    topic_fd = _directory(disk, directory, store.topics_fd)
    if topic_fd < 0:
        return
    try:
        for name in disk.listdir(topic_fd):
            dir_fd = _directory(disk, name, topic_fd) if name.isdecimal() else -1
            if dir_fd < 0:
                continue
            try:
                _flag_partition(store, dir_fd)
            finally:
                disk.close(dir_fd)
    finally:
        disk.close(topic_fd)


def _directory(disk: "Disk", name: str, dir_fd: int) -> int:
    """A descriptor of directory ``name``; -1 where it is something else, or a symlink."""
    try:
        return disk.open_dir(name, dir_fd)
    except OSError as error:
        if error.errno not in (ENOTDIR, ELOOP):
            raise
        return -1


def _flag_partition(store: "Store", dir_fd: int) -> None:
    disk = store.disk
    lock_fd = commit_fd = -1
    try:
        try:
            lock_fd = disk.open("lock", WRITE, dir_fd)
            commit_fd = disk.open("commit", WRITE, dir_fd)
        except (FileNotFoundError, IsADirectoryError):
            return
        disk.lock(lock_fd)
        record = parse_lock(disk.pread(lock_fd, 64, 0))
        if record is not None:
            record.flags |= FLAG_DELETED
            disk.pwrite(lock_fd, record.encode(), 0)
        raw = disk.pread(commit_fd, FILE_BYTES, 0)
        fold = int.from_bytes(raw[52:56], "little")
        commit = newest_commit(raw, fold)
        if commit is not None:
            slot = copy_slot(commit, flags=commit.flags | FLAG_DELETED)
            disk.pwrite(commit_fd, slot.encode(), slot.place)
    except NewerSlot:
        pass  # its handles are of a later version, and look at the topic's name, too
    finally:
        for fd in (lock_fd, commit_fd):
            if fd >= 0:
                disk.close(fd)
