"""The store: one object for a directory of topics. Each command is a few lines over one method of it."""

from _thread import allocate_lock
from zlib import crc32

import pspf
from pspf.disk import real
from pspf.disk.real import Disk
from pspf.store.topics import Topic, check_durability, check_name, load_topic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Iterator, Sequence
    from typing import Unpack
    from weakref import ref

    import pspf.errors
    from pspf.format.columns import Pairs
    from pspf.log.reader import PartitionReader
    from pspf.log.writer import PartitionWriter
    from pspf.model import Appended, Record, TopicConfig
    from pspf.store.describe import TopicInfo, TopicStats, Usage
    from pspf.store.record import Value
    from pspf.store.repair import RepairReport
    from pspf.store.select import ReadOptions, Selection, TailOptions
    from pspf.store.verify import Finding, VerifyReport
    from pspf.store.writer import Writer

_RECHECK_NS = 1_000_000_000
_MAX_WRITERS = 200


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: ``crc32(key) % partitions``, as librdkafka's ``consistent`` partitioner."""
    return crc32(key) % partitions


class Store:
    """An open store. Made by :func:`pspf.open`; threads may share it; not usable in a forked child.

    ``created`` says whether this call made it. ``tell`` gets a line for each thing that recovery did.
    """

    __slots__ = (
        "_closed", "_forks", "_gathering", "_mutex", "_naming", "_next_partition",
        "_topics", "_turns", "_writers", "created", "dir_fd", "disk", "path", "read_only",
        "store_id", "tell", "topics_fd",
    )  # fmt: skip

    def __init__(
        self,
        disk: Disk,
        path: str,
        dir_fd: int,
        store_id: str,
        created: bool = False,
        read_only: bool = False,
        tell: "Callable[[str], None] | None" = None,
    ) -> None:
        self.disk = disk
        self.path = path
        self.dir_fd = dir_fd
        self.store_id = store_id
        self.created = created
        self.read_only = read_only
        self.tell = tell
        self._closed = False
        self._forks = real.forks
        self._gathering: "list[ref[Writer]] | None" = []
        self._mutex = allocate_lock()
        self._naming = allocate_lock()
        self._topics: "dict[str, tuple[Topic, int]]" = {}
        self._writers: "dict[tuple[str, int, str | None], PartitionWriter]" = {}
        self._turns: "dict[tuple[str, int, str | None], LockType]" = {}
        self._next_partition = -1
        try:
            self.topics_fd = disk.open_dir("topics", dir_fd)
        except OSError as error:
            disk.close(dir_fd)
            from pspf.store.missing import no_topics

            raise no_topics(path, error) from None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Make everything durable, also what writers have gathered, and let go of all files.

        :raises pspf.errors.Error: the first thing that could not be done; the store is closed all the same.
        """
        with self._mutex:
            gathering, self._gathering = self._gathering, None
        if gathering is None:
            return  # it is closed, or another thread closes it
        failure: "BaseException | None" = None
        if self._forks == real.forks:
            for known in gathering:
                gatherer = known()
                try:
                    if gatherer is not None:
                        gatherer.close()
                except Exception as error:
                    failure = failure or error
        self._closed = True
        if self._forks != real.forks:
            return
        with self._mutex:
            writers = list(self._writers.values())
            self._writers.clear()
        for writer in writers:
            try:
                writer.close()
            except pspf.errors.Error as error:
                failure = failure or error
        for name in list(self._topics):
            self.forget(name)
        self.disk.close(self.topics_fd)
        self.disk.close(self.dir_fd)
        if failure is not None:
            raise failure

    def _usable(self) -> None:
        if self._forks != real.forks:
            raise pspf.errors.UseAfterFork(
                "cannot use the store", "it was opened before a fork", self.path, "open it again in the child"
            )
        if self._closed:
            raise pspf.errors.Closed("cannot use the store", "it is closed", self.path)

    def writable(self, doing: str) -> None:
        """Refuse what a read-only store cannot do."""
        self._usable()
        if self.read_only:
            raise pspf.errors.Denied(f"cannot {doing}", "the store was opened read-only", self.path)

    # -- topics

    def topics(self) -> "list[str]":
        """Names of all topics, sorted."""
        from pspf.store.looking import topic_names

        self._usable()
        return topic_names(self)

    def topic(self, name: str) -> Topic:
        """The topic of that name, from the cache if it was looked at within the last second.

        :raises pspf.errors.NoSuchTopic: there is none.
        """
        found = self.find_topic(name)
        if found is None:
            raise self.no_such_topic(name)
        return found

    def find_topic(self, name: str) -> "Topic | None":
        """As :meth:`topic`, but None if there is none."""
        self._usable()
        cached = self._topics.get(name)
        if cached is not None:
            topic, until = cached
            now = self.disk.now_ns()
            if until - _RECHECK_NS <= now < until:
                return topic
            if self._unchanged(topic):
                self._topics[name] = (topic, now + _RECHECK_NS)
                return topic
            self.forget(name)
        check_name(name)
        topic_or_none = load_topic(
            self.disk, self.topics_fd, f"{self.path}/topics", name, self.read_only, self.tell
        )
        if topic_or_none is None:
            return None
        self._topics[name] = (topic_or_none, self.disk.now_ns() + _RECHECK_NS)
        return topic_or_none

    def _unchanged(self, topic: Topic) -> bool:
        """Whether the topic's directory and settings file are still the ones that were read."""
        try:
            return topic.stamp == (
                self.disk.stat_name(topic.name, self.topics_fd).st_ino,
                self.disk.stat_name("topic.toml", topic.dir_fd).st_ino,
            )
        except OSError:
            return False

    def lock_names(self) -> None:
        """Exclude everybody else, here and in other processes, from making and removing topics."""
        self._usable()
        # The threads of a process share the descriptor, so its lock would not exclude them.
        self._naming.acquire()
        try:
            self.disk.lock(self.topics_fd)
        except BaseException:
            self._naming.release()
            raise

    def unlock_names(self) -> None:
        """The end of :meth:`lock_names`."""
        try:
            self.disk.unlock(self.topics_fd)
        finally:
            self._naming.release()

    def forget(self, name: str) -> None:
        """Drop what is cached of a topic; writers that are open stay."""
        self._topics.pop(name, None)

    def no_such_topic(self, name: str) -> "pspf.errors.NoSuchTopic":
        """The error for a topic that is not there."""
        from pspf.store.missing import no_such_topic

        return no_such_topic(self, name)

    def partition_count(self, name: str) -> int:
        """How many partitions the topic has now."""
        return self.topic(name).config.partitions

    def create_topic(self, name: str, config: "TopicConfig | None" = None) -> "TopicInfo":
        """Make a topic. :raises pspf.errors.Exists: there is one of that name."""
        from pspf.store.lifecycle import create_topic

        create_topic(self, name, config)
        return self.describe(name)

    def ensure_topic(self, name: str, create: bool = True) -> "tuple[Topic, bool]":
        """The topic, made with defaults if it is not there; and whether it was made now."""
        topic = self.find_topic(name)
        if topic is not None:
            return topic, False
        if not create:
            raise self.no_such_topic(name)
        from pspf.store.lifecycle import create_topic

        try:
            create_topic(self, name)
            made = True
        except pspf.errors.Exists:  # another process was first
            made = False
        return self.topic(name), made

    def alter_topic(self, name: str, **settings: "str | int | bool") -> "TopicConfig":
        """Change settings of a topic; returns all of them."""
        from pspf.store.lifecycle import alter_topic

        return alter_topic(self, name, dict(settings))

    def alter_topic_from(self, name: str, path: str) -> "TopicConfig":
        """Take in a settings file that was changed by hand."""
        from pspf.store.lifecycle import alter_topic_from

        return alter_topic_from(self, name, path)

    def add_partitions(self, name: str, total: int) -> int:
        """Raise the number of partitions to ``total``. Keys are placed anew from then on."""
        return self.alter_topic(name, partitions=total).partitions

    def rename_topic(self, old: str, new: str) -> None:
        """Give a topic another name."""
        from pspf.store.lifecycle import rename_topic

        self.close_writers(old)
        rename_topic(self, old, new)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all its records."""
        from pspf.store.lifecycle import delete_topic

        self.close_writers(name)
        delete_topic(self, name)

    # -- handles of partitions

    def partition_writer(
        self, topic: Topic, partition: int, durability: "str | None" = None
    ) -> "PartitionWriter":
        """The open writer of a partition; makes its directory at the first append."""
        key = (topic.name, partition, durability)
        with self._mutex:
            writer = self._writers.get(key)
            if writer is not None and writer.identity.topic_id == topic.topic_id and not writer.broken:
                return writer
            turn = self._turns.setdefault(key, allocate_lock())
        with turn:  # not the mutex: an open may wait for a lock or recover, and other partitions go on
            with self._mutex:
                old = self._writers.get(key)
                if old is not None and old is not writer:
                    return old  # another thread was first
                self._writers.pop(key, None)
                full = len(self._writers) >= _MAX_WRITERS
                oldest = self._writers.pop(next(iter(self._writers))) if full else None
            if old is not None:
                self._close_quietly(old)
            if oldest is not None:
                oldest.close()
            writer = self._open_writer(topic, partition, durability)
            with self._mutex:
                if key not in self._writers and not self._closed:
                    self._writers[key] = writer
                    return writer
        self._close_quietly(writer)  # the store, or the topic's writers, were closed meanwhile
        return self.partition_writer(topic, partition, durability)

    def _open_writer(self, topic: Topic, partition: int, durability: "str | None") -> "PartitionWriter":
        from pspf.log.writer import PartitionWriter

        check_durability(topic.name, durability)
        if not 0 <= partition < topic.config.partitions:
            raise self.no_such_partition(topic, partition)
        self.writable(f"append to '{topic.name}'")
        identity = topic.identity(partition, f"{self.path}/quarantine")
        try:
            try:
                dir_fd = self.disk.open_dir(str(partition), topic.dir_fd)
            except FileNotFoundError:
                from pspf.log.create import create_partition

                create_partition(self.disk, topic.dir_fd, identity)
                dir_fd = self.disk.open_dir(str(partition), topic.dir_fd)
            return PartitionWriter(self.disk, identity, dir_fd, durability, self.tell)
        except (OSError, pspf.errors.Error) as error:
            from pspf.store.missing import not_opened

            better = not_opened(self, topic, identity.path, error)
            if better is error:
                raise
            raise better from error

    def _lives(self, topic: Topic) -> bool:
        """Whether the topic's name still leads to what was opened."""
        try:
            return self.disk.stat_name(topic.name, self.topics_fd).st_ino == topic.stamp[0]
        except FileNotFoundError:
            return False
        except OSError:
            return True  # nobody can tell; what failed before tells more

    @staticmethod
    def _close_quietly(writer: "PartitionWriter") -> None:
        try:
            writer.close()
        except pspf.errors.Error:
            pass  # it was broken already, and has said so

    def close_writers(self, name: str) -> None:
        """Close this store's writers of a topic."""
        with self._mutex:
            writers = [self._writers.pop(key) for key in list(self._writers) if key[0] == name]
            self._turns = {key: turn for key, turn in self._turns.items() if key[0] != name}
        for writer in writers:
            self._close_quietly(writer)

    def no_such_partition(
        self, topic: Topic, partition: int, reading: bool = False
    ) -> "pspf.errors.NoSuchPartition":
        """The error for a partition that is not there, with a hint for who appends or for who reads."""
        from pspf.store.missing import no_such_partition

        return no_such_partition(topic, partition, reading)

    def reader(self, name: str, partition: int) -> "PartitionReader":
        """A reader of one partition.

        :raises pspf.errors.NoSuchPartition: the topic has fewer.
        """
        from pspf.log.reader import PartitionReader

        topic = self.topic(name)
        if not 0 <= partition < topic.config.partitions:
            raise self.no_such_partition(topic, partition, reading=True)
        number = str(partition)

        def open_dir() -> "int | None":
            again = self.find_topic(name)
            if again is None or again.topic_id != topic.topic_id:
                from pspf.store.missing import gone

                raise gone(name)
            try:
                return self.disk.open_dir(number, again.dir_fd)
            except FileNotFoundError:
                if not self._lives(again):
                    self.forget(name)
                    from pspf.store.missing import gone

                    raise gone(name) from None
                return None

        return PartitionReader(
            self.disk, topic.identity(partition, f"{self.path}/quarantine"), open_dir, not self.read_only
        )

    # -- data

    def place(self, topic: Topic, key: "bytes | None") -> int:
        """The partition for a record: by its key, or in turn where it has none."""
        n = topic.config.partitions
        if n == 1:
            return 0
        if key is not None:
            return partition_of(key, n)
        if self._next_partition < 0:
            from os import urandom

            self._next_partition = urandom(1)[0]
        self._next_partition += 1
        return self._next_partition % n

    def append(
        self,
        topic: str,
        value: "Value",
        *,
        key: "Value" = None,
        headers: "Pairs" = (),
        timestamp_ms: "int | None" = None,
        partition: "int | None" = None,
        durability: "str | None" = None,
        producer: "str | None" = None,
        sequence: "int | None" = None,
        expect_offset: "int | None" = None,
        create: bool = True,
    ) -> "Appended":
        """Append one record and return when it is acknowledged.

        :param value: None is a null, which is not the same as empty.
        :param timestamp_ms: the record's time; now by default.
        :param durability: for this append, instead of the topic's.
        :param producer: with ``sequence``: a repeat is recognised and not appended again.
        :param sequence: number of the record, counted from 0 per producer and partition. Without it the
            record takes the producer's next one, and a repeat is another record.
        :param expect_offset: append only if the record gets this offset.
        :param create: make the topic if it is not there.
        :raises pspf.errors.Usage: an argument that means nothing.
        :raises pspf.errors.IOFailed: nothing was appended; see its subclasses for the exceptions to that.
        """
        from pspf.store.one import append_one

        check_durability(topic, durability)
        return append_one(
            self, topic, value, key, headers, timestamp_ms, partition, durability,
            producer, sequence, expect_offset, create,
        )  # fmt: skip

    def append_many(
        self,
        topic: str,
        values: "Sequence[bytes | None]",
        *,
        keys: "Sequence[bytes | None] | None" = None,
        headers: "Pairs" = (),
        timestamps_ms: "Sequence[int] | int | None" = None,
        partition: "int | None" = None,
        durability: "str | None" = None,
        create: bool = True,
    ) -> "list[Appended]":
        """Append many records at once: one batch for each partition they go to, durable together at the end.

        :param keys: one for each value, or None.
        :param headers: the same for all.
        :param timestamps_ms: one for all, or one for each; now by default.
        :returns: where they went, a row a batch.
        """
        from pspf.store.many import append_many

        check_durability(topic, durability)
        return append_many(self, topic, values, keys, headers, timestamps_ms, partition, durability, create)

    def writer(
        self,
        topic: str,
        *,
        partition: "int | None" = None,
        durability: "str | None" = None,
        linger_ms: "float | None" = None,
        create: bool = True,
    ) -> "Writer":
        """A writer that may gather records: see :class:`pspf.store.writer.Writer`."""
        from pspf.store.writer import make_writer

        check_durability(topic, durability)
        return make_writer(self, topic, partition, durability, linger_ms, create)

    def read(
        self, topic: str, selection: "Selection | None" = None, **options: "Unpack[ReadOptions]"
    ) -> "Iterator[Record]":
        """The records of a topic up to its end, merged; ``options`` as :class:`pspf.Selection` takes them."""
        from pspf.store.reading import read_records

        return read_records(self, topic, selection, **options)

    def tail(
        self,
        topic: str,
        last: "int | None" = 10,
        follow: bool = True,
        selection: "Selection | None" = None,
        **options: "Unpack[TailOptions]",
    ) -> "Iterator[Record]":
        """The last records of a topic (None: all) and, with ``follow``, each later one when it is visible."""
        from pspf.store.reading import tail_records

        return tail_records(self, topic, last, follow, selection, **options)

    # -- looking

    def describe(self, topic: str) -> "TopicInfo":
        """All about a topic and its partitions."""
        from pspf.store.describe import describe

        return describe(self, topic)

    def stats(self, topic: str) -> "TopicStats":
        """The row of ``pspf ls``."""
        from pspf.store.describe import stats

        return stats(self, topic)

    def usage(self, topics: "list[str] | str | None" = None) -> "list[Usage]":
        """Bytes on disk, a row a partition."""
        from pspf.store.describe import usage

        return usage(self, topics)

    def inspect(
        self, topic: str, partition: int = 0, segment: "int | None" = None
    ) -> "Iterator[dict[str, object]]":
        """What lies in the segments, header by header."""
        from pspf.store.inspect import inspect

        return inspect(self, topic, partition, segment)

    def verify(
        self,
        topics: "list[str] | str | None" = None,
        *,
        on_finding: "Callable[[Finding], None] | None" = None,
        on_progress: "Callable[[int, int], None] | None" = None,
    ) -> "VerifyReport":
        """Check every byte that is stored."""
        from pspf.store.verify import verify

        return verify(self, topics, on_finding, on_progress)

    def repair(self, topic: str, partition: int, *, dry_run: bool = False) -> "RepairReport":
        """Decide an end in doubt; nothing else, so far."""
        from pspf.store.repair import repair

        return repair(self, topic, partition, dry_run)
