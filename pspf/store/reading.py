"""A topic as one stream of pieces: what was selected, merged, counted, and followed as it grows.

:class:`Stream` is what ``cat``, ``tail`` and ``Store.read`` stand on. It first gives what was visible when it
began, in the order of :mod:`pspf.store.merge`; when it follows, it then gives records as they become visible,
in merge order among those that are there. A piece is a :class:`pspf.store.merge.Run` or ``Mixed``.
"""

from pspf import errors
from pspf.store.merge import BEFORE_ALL, READ_BYTES, Cursor, Heads, records
from pspf.store.select import Selection, highest_before, last_records, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Unpack

    from pspf.model import Record
    from pspf.store.merge import Mixed, Run
    from pspf.store.select import SelectionOptions
    from pspf.store.store import Store
    from pspf.store.topics import Topic
    from pspf.wake.base import Waiter

# All partitions together read ahead about so much; each at least one batch.
_ALL_READS_BYTES = 32 << 20
_LEAST_READ_BYTES = 64 << 10
# Bounds what a busy partition can hold back of the others while following.
_LOOK_EVERY = 64
# Wake-ups may be lost (network mounts, full queues): so often everything is looked at without one.
RECHECK_S = 1.0
_STOP_LOOK_S = 0.1
_MOST_NOTES = 3
# Descriptors of a partition that is being read (directory, commit, segment, and one that comes and goes), and
# of everything else in the process.
_FILES_EACH = 4
_FILES_ELSE = 50
_MANY_PARTITIONS = 50


class Stream:
    """The selected records of a topic.

    :param last: only the last so many of what is there, counted in the merged output.
    :param from_nth: begin with this one of the merged output, counted from 1.
    :param follow: go on with what is appended later, also to a topic or partition that does not exist yet.
    :param on_note: told, in a line, what the user should know.
    :param stop: asked at every piece and 10 times a second while waiting; true ends the stream.
    :param more_files: asked to raise the limit of open files to so many, before many partitions are opened.
        The limit is the process's: a command may raise it, the library does not by itself.
    :raises pspf.errors.NoSuchTopic: there is no such topic, and it does not follow.
    :raises pspf.errors.NoSuchPartition: the selection names one that the topic has not.

    ``damage`` collects what was found broken; ``finished`` is true when nothing more will come.
    """

    __slots__ = (
        "_cursors",
        "_due",
        "_heads",
        "_historic",
        "_idle",
        "_left",
        "_look_at",
        "_looks",
        "_numbers",
        "_place",
        "_seen",
        "_skip",
        "_waiter",
        "damage",
        "finished",
        "follow",
        "from_nth",
        "last",
        "more_files",
        "on_note",
        "selection",
        "stop",
        "store",
        "topic",
        "topic_id",
    )

    def __init__(
        self,
        store: "Store",
        topic: str,
        selection: "Selection | None" = None,
        follow: bool = False,
        last: "int | None" = None,
        from_nth: "int | None" = None,
        on_note: "Callable[[str], None] | None" = None,
        stop: "Callable[[], bool] | None" = None,
        more_files: "Callable[[int], None] | None" = None,
    ) -> None:
        self.store = store
        self.topic = topic
        self.topic_id = b""
        self.selection = selection if selection is not None else Selection()
        self.follow = follow
        self.last = last
        self.from_nth = from_nth
        self.on_note = on_note
        self.stop = stop
        self.more_files = more_files
        self.damage: "list[errors.Damaged]" = []
        self.finished = False
        self._cursors: "list[Cursor]" = []
        self._numbers: "set[int]" = set()
        self._heads = Heads()
        self._idle: "dict[str, Cursor]" = {}
        self._skip = max((from_nth or 1) - 1, 0)
        self._left = self.selection.limit
        self._looks = self._place = 0
        self._look_at = 0.0
        self._due: "Cursor | None" = None
        self._historic = True
        self._seen = False
        self._waiter: "Waiter | None" = None
        if self._left == 0:
            self.finished = True
        try:
            if follow and not self.finished:
                from pspf.wake.choose import waiter

                self._waiter = waiter()
            self._begin()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files."""
        self.finished = True
        for cursor in self._cursors:
            cursor.reader.close()
        self._cursors.clear()
        self._idle.clear()
        if self._waiter is not None:
            self._waiter.close()
            self._waiter = None

    # -- beginning

    def _begin(self) -> None:
        topic = self.store.find_topic(self.topic)
        if topic is None:
            if not self.follow or self._waiter is None:
                raise self.store.no_such_topic(self.topic)
            self._say(f"there is no topic '{self.topic}' yet: waiting for it")
            self._waiter.add(f"{self.store.path}/topics")
            self._historic = False
            return
        self._seen = True
        self.topic_id = topic.topic_id
        notes: "list[str]" = []
        for number in self._wanted(topic):
            opened = self._open(number, notes.append)
            if opened is not None:
                cursor, visible = opened
                cursor.end = visible if cursor.final is None else min(cursor.final, visible)
                self._put_aside(cursor)
        for note in notes[:_MOST_NOTES]:
            self._say(note)
        if len(notes) > _MOST_NOTES:
            self._say(f"and the same in {len(notes) - _MOST_NOTES} other partitions")
        if self.last is not None:
            self._keep_last(self.last)
        if not self.selection.by_partition:
            for cursor in self._cursors:
                self._offer(cursor)

    def _say(self, text: str) -> None:
        if self.on_note is not None:
            self.on_note(text)

    def _wanted(self, topic: "Topic") -> "list[int]":
        selection = self.selection
        if selection.partitions is not None:
            wanted = selection.partitions
        elif selection.key is not None:
            from pspf.store.store import partition_of

            # What was placed while there were fewer partitions has stayed.
            counts = (*topic.counts, topic.config.partitions)
            wanted = sorted({partition_of(selection.key, count) for count in counts})
        else:
            wanted = list(range(topic.config.partitions))
        if len(wanted) > _MANY_PARTITIONS and self.more_files is not None:
            self.more_files(_FILES_EACH * len(wanted) + _FILES_ELSE)
        return wanted

    def _put_aside(self, cursor: Cursor) -> None:
        """One after the other, a partition's files are open only while it is read; its place is kept."""
        if self.selection.by_partition:
            cursor.reader.close()

    def _load(self, cursor: Cursor) -> bool:
        try:
            return cursor.load()
        except errors.TooManyFiles as error:
            raise self._crowded(error, cursor.partition) from None

    def _crowded(self, error: "OSError | errors.Error", number: int) -> "errors.Error":
        """``error`` of partition ``number``; where descriptors ran out, with the limit that would do."""
        if isinstance(error, OSError):
            error = errors.from_os(error, f"cannot read {self.topic}/{number}")
        if not isinstance(error, errors.TooManyFiles):
            return error
        topic = self.store.find_topic(self.topic)
        count = topic.config.partitions if topic is not None else len(self._cursors)
        limit = f"ulimit -n {_FILES_EACH * count + _FILES_ELSE}"
        return errors.TooManyFiles(
            f"cannot read {self.topic}/{number}",
            f"{error.why}, with {count} partitions to read at once",
            "",
            f"raise the limit with: {limit}, or read one after the other: --by-partition",
        )

    def _open(
        self, number: int, on_note: "Callable[[str], None] | None" = None, from_start: bool = False
    ) -> "tuple[Cursor, int] | None":
        """A cursor of one partition and its visible end; None when it cannot be read at all."""
        selection = self.selection
        reader = self.store.reader(self.topic, number)
        self._numbers.add(number)
        try:
            if self._waiter is not None:  # before looking: what is published in between is not missed
                self._waiter.add(f"{self.store.path}/topics/{self.topic}")
                self._waiter.add(reader.commit_path)
            visible = reader.end()
            first, end, until = resolve(selection, reader, on_note)
            if from_start:
                first = reader.start()
            cursor = Cursor(
                reader, first, end, until, selection.key, selection.skip_damaged, self.damage, self.on_note
            )
        except errors.Damaged as error:
            self.damage.append(error)
            reader.close()
            return None
        except (OSError, errors.TooManyFiles) as error:
            reader.close()
            raise self._crowded(error, number) from error
        except BaseException:
            reader.close()
            raise
        cursor.follow = self.follow
        self._cursors.append(cursor)
        read_bytes = max(min(READ_BYTES, _ALL_READS_BYTES // len(self._cursors)), _LEAST_READ_BYTES)
        for each in self._cursors:
            each.read_bytes = read_bytes
        return cursor, visible

    def _keep_last(self, count: int) -> None:
        """Move every cursor to its last ``count`` records, and skip what the merge of them has too many."""
        total = 0
        several = len(self._cursors) > 1 and not self.selection.by_partition
        for cursor in self._cursors:
            first, end = cursor.first, cursor.end
            assert end is not None
            begin, found = last_records(
                cursor.reader, first, end, count, cursor.key, self.selection.skip_damaged
            )
            total += found
            level = BEFORE_ALL
            if several and found:
                level = highest_before(cursor, first, begin, end)
            cursor.move(begin, level)
            self._put_aside(cursor)
        self._skip = max(total - count, 0)

    # -- pieces

    def next(self) -> "Run | Mixed | None":
        """The next piece; None when there is none for now (:meth:`wait`), or none any more (``finished``).

        :raises pspf.errors.TopicDeleted: the topic was deleted meanwhile.
        """
        while not self.finished:
            if self.stop is not None and self.stop():
                self.finished = True
                break
            chunk = self._step()
            if chunk is None:
                if self.follow and self._historic:
                    self._go_live()
                    continue
                if not self.follow or (self._seen and not self._idle):
                    self.finished = True
                break
            count = chunk.count
            if self._skip:
                if count <= self._skip:
                    self._skip -= count
                    continue
                chunk = chunk.cut(self._skip, count)
                count -= self._skip
                self._skip = 0
            if self._left is not None:
                if count >= self._left:
                    chunk = chunk.cut(0, self._left) if count > self._left else chunk
                    count = self._left
                    self.finished = True
                self._left -= count
            return chunk
        return None

    @property
    def ready(self) -> bool:
        """True when the next piece is in memory: whoever writes can gather it with this one."""
        due = self._due
        return len(self._heads) > 0 or (due is not None and due.buffered)

    def _step(self) -> "Run | Mixed | None":
        if self._historic and self.selection.by_partition:
            return self._step_by_partition()
        due, self._due = self._due, None
        if due is not None:
            self._offer(due)
        if self.follow and not self._historic:
            self._looks += 1
            if self._looks % _LOOK_EVERY == 0:
                self.wait(0)
        stepped = self._heads.step()
        if stepped is None:
            return None
        # Its next batch is read when the next piece is asked for: this one is on its way first.
        chunk, self._due = stepped
        return chunk

    def _step_by_partition(self) -> "Run | None":
        while self._place < len(self._cursors):
            cursor = self._cursors[self._place]
            if self._load(cursor):
                return cursor.rest()
            self._place += 1
            self._put_aside(cursor)
            self._rest(cursor)
        return None

    def _offer(self, cursor: Cursor) -> None:
        if self._load(cursor):
            self._heads.add(cursor)
        else:
            self._rest(cursor)

    def _rest(self, cursor: Cursor) -> None:
        if self.follow and (self._historic or not cursor.finished):
            self._idle[cursor.reader.commit_path] = cursor

    # -- following

    def _go_live(self) -> None:
        """What was there is out; from here on, what becomes visible."""
        self._historic = False
        for cursor in self._cursors:
            cursor.end = cursor.final
        self._wake_up(list(self._idle))

    def _wake_up(self, paths: "Iterable[str]") -> None:
        for path in paths:
            cursor = self._idle.pop(path, None)
            if cursor is not None:
                cursor.top = BEFORE_ALL  # nothing behind it is waiting any more
                self._offer(cursor)

    def wait(self, timeout_s: float = RECHECK_S, also_fd: "int | None" = None) -> str:
        """Wait until there may be more: ``changed``, ``timeout``, or ``hangup`` of ``also_fd``.

        :raises pspf.errors.TopicDeleted: the topic was deleted meanwhile.
        """
        waiter = self._waiter
        if waiter is None:
            return "timeout"
        from time import monotonic

        if self.stop is not None:
            timeout_s = min(timeout_s, _STOP_LOOK_S)
        reason = waiter.wait(timeout_s, also_fd)
        if reason == "hangup":
            return reason
        now = monotonic()
        changed = waiter.changed if reason == "changed" else frozenset()
        if changed is None or now >= self._look_at:
            self._look_at = now + RECHECK_S
            self._look_at_topic()
            self._wake_up(list(self._idle))
            return "changed"
        if changed:
            ours = [path for path in changed if path in self._idle]
            if len(ours) < len(changed):
                self._look_at_topic()
            self._wake_up(ours)
        return reason

    def _look_at_topic(self) -> None:
        """Topics come and go, and partitions are added."""
        topic = self.store.find_topic(self.topic)
        if self._seen and (topic is None or topic.topic_id != self.topic_id):
            raise self._gone()
        if topic is None:
            return
        if not self._seen:
            self._seen = True
            self.topic_id = topic.topic_id
            # All of it is new: what would be the end, or so many before it, is the start.
            selection = self.selection
            selection.ranges = [bound for bound in selection.ranges if bound[1] not in ("end", "back")]
            for number in self._wanted(topic):
                opened = self._open(number, self.on_note)
                if opened is not None:
                    self._offer(opened[0])
        elif self.selection.partitions is None:
            for number in self._wanted(topic):
                if number not in self._numbers:
                    opened = self._open(number, from_start=True)
                    if opened is not None:
                        self._offer(opened[0])

    def _gone(self) -> "errors.TopicDeleted":
        """The topic's name does not lead to it any more."""
        for name in self.store.topics():
            try:
                topic = self.store.find_topic(name)
            except errors.Error:
                continue
            if topic is not None and topic.topic_id == self.topic_id:
                why, hint = f"the topic was renamed to '{name}'", f"pspf tail -f {name}"
                return errors.TopicDeleted(f"cannot read '{self.topic}' on", why, "", hint)
        return errors.TopicDeleted(f"cannot read '{self.topic}'", "the topic was deleted")


# -- as objects


def read_records(
    store: "Store",
    topic: str,
    selection: "Selection | None" = None,
    on_note: "Callable[[str], None] | None" = None,
    on_damage: "Callable[[errors.Damaged], None] | None" = None,
    **options: "Unpack[SelectionOptions]",
) -> "Iterator[Record]":
    """The selected records up to the end that is visible now, merged.

    :param options: the arguments of :class:`Selection`, where there is no ``selection``.
    :param on_damage: told of each damaged range.
    :raises pspf.errors.Damaged: the first range that could not be read, after everything else was given; not
        with ``skip_damaged``.
    """
    return _records(Stream(store, topic, _selection(selection, options), on_note=on_note), on_damage)


def tail_records(
    store: "Store",
    topic: str,
    last: "int | None" = 10,
    follow: bool = True,
    selection: "Selection | None" = None,
    on_note: "Callable[[str], None] | None" = None,
    on_damage: "Callable[[errors.Damaged], None] | None" = None,
    stop: "Callable[[], bool] | None" = None,
    **options: "Unpack[SelectionOptions]",
) -> "Iterator[Record]":
    """The last ``last`` records (None: all) and, with ``follow``, each later one as it becomes visible.

    :param stop: asked 10 times a second while waiting; true ends it.
    :param options: the arguments of :class:`Selection`, where there is no ``selection``.
    :raises pspf.errors.TopicDeleted: the topic was deleted meanwhile.
    :raises pspf.errors.Damaged: as :func:`read_records`.
    """
    chosen = _selection(selection, options)
    return _records(Stream(store, topic, chosen, follow, last, None, on_note, stop), on_damage)


def _selection(selection: "Selection | None", options: "SelectionOptions") -> Selection:
    if selection is None:
        return Selection(**options)
    if options:
        raise errors.Usage(f"a selection and {', '.join(sorted(options))}: one of them")
    return selection


def _records(stream: Stream, on_damage: "Callable[[errors.Damaged], None] | None") -> "Iterator[Record]":
    told = 0
    with stream:
        while True:
            chunk = stream.next()
            if on_damage is not None:
                for error in stream.damage[told:]:
                    on_damage(error)
                told = len(stream.damage)
            if chunk is not None:
                yield from records(stream.topic, chunk)
            elif stream.finished:
                break
            else:
                stream.wait()
        damage, skipped = stream.damage, stream.selection.skip_damaged
    if damage and not skipped:
        raise damage[0]
