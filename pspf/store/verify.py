"""Read every byte that is stored, check it, and name each damaged range.

Nothing is modified but the index, which is derived: where it disagrees with the batches and the store may be
written, it is rebuilt. It works while writers append (up to the end that was published when it came to the
partition), and needs the same memory however large the store is: one batch at a time.

A finding is ``damage`` (something stored is gone, wrong, or cannot be trusted) or a ``note`` (it harms no
record: what the next open puts right, leftovers, files of others, bytes in quarantine). docs/corruption.md
lists every kind.
"""

from pspf import errors
from pspf.format.segment import base_of
from pspf.format.settings import BadSettings, decode, encode
from pspf.store.counts import earlier_counts
from pspf.store.looking import PartitionView, is_partition_name
from pspf.store.open import STORE_FILE
from pspf.store.topics import TOPIC_FILE, Topic, check_name, split_values, topic_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.store.store import Store

PRODUCERS = "producers"
"""A topic's directory with a lock file for each producer in use."""

DAMAGE = "damage"
NOTE = "note"
_ATTEMPTS = 3
_PROGRESS_BYTES = 4 << 20


class Finding:
    """One thing that is not as it should be.

    :param topic: "" when it is about the store. :param partition: -1 when it is about the topic.
    :param first_offset: first record offset affected, -1 when no record is, or none is known.
    :param last_offset: the last one, inclusive. :param path: the file.
    :param position: first byte affected, -1 when it is about the whole file. :param length: bytes.
    """

    __slots__ = (
        "detail",
        "first_offset",
        "kind",
        "last_offset",
        "length",
        "partition",
        "path",
        "position",
        "severity",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        kind: str,
        severity: str,
        detail: str,
        path: str = "",
        first_offset: int = -1,
        last_offset: int = -1,
        position: int = -1,
        length: int = 0,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.kind = kind
        self.severity = severity
        self.detail = detail
        self.path = path
        self.first_offset = first_offset
        self.last_offset = last_offset
        self.position = position
        self.length = length

    @property
    def place(self) -> str:
        """What it is about: ``orders/3``, ``orders``, or ``store``."""
        if not self.topic:
            return "store"
        return f"{self.topic}/{self.partition}" if self.partition >= 0 else self.topic

    def __repr__(self) -> str:
        return f"Finding({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class VerifyReport:
    """What was read, and what was found. ``ok``: no damage; notes do not count.

    Records, batches and bytes are those that were checked and are whole.
    """

    __slots__ = ("batches", "bytes", "findings", "partitions", "records", "segments")

    def __init__(self) -> None:
        self.findings: "list[Finding]" = []
        self.records = self.batches = self.bytes = self.segments = self.partitions = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return all(f.severity != DAMAGE for f in self.findings)


def verify(
    store: "Store",
    topics: "list[str] | str | None" = None,
    on_finding: "Callable[[Finding], None] | None" = None,
    on_progress: "Callable[[int, int], None] | None" = None,
) -> VerifyReport:
    """Check ``topics`` (names, or one), or everything.

    :param on_finding: gets each finding when the partition it is about is done.
    :param on_progress: gets (bytes done, bytes in all); the last call has both equal.
    :raises pspf.errors.NoSuchTopic: one of ``topics`` does not exist.
    """
    run = _Run(store, on_finding, on_progress)
    store._usable()
    if isinstance(topics, str):
        topics = [topics]
    names = topics
    if names is None:
        run.check_store()
        names = run.topic_names()
    if on_progress is not None:
        run.total = sum(map(run.size_of, names))
        on_progress(0, run.total)
    for name in names:
        run.check_topic(name, asked=topics is not None)
    run.check_quarantine(topics)
    if on_progress is not None:
        on_progress(run.total, run.total)
    return run.report


class _Run:
    """One run of :func:`verify`."""

    __slots__ = ("_told", "done", "on_finding", "on_progress", "report", "store", "total")

    def __init__(
        self,
        store: "Store",
        on_finding: "Callable[[Finding], None] | None",
        on_progress: "Callable[[int, int], None] | None",
    ) -> None:
        self.store = store
        self.report = VerifyReport()
        self.on_finding = on_finding
        self.on_progress = on_progress
        self.done = self.total = self._told = 0

    def add(self, finding: Finding) -> None:
        """Take a finding into the report."""
        self.report.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    def advance(self, count: int) -> None:
        """``count`` more bytes are done."""
        self.done = min(self.done + count, self.total)
        if self.on_progress is not None and self.done - self._told >= _PROGRESS_BYTES:
            self._told = self.done
            self.on_progress(self.done, self.total)

    # -- the store

    def check_store(self) -> None:
        """``store.toml``, and what else lies in the store's directory."""
        store = self.store
        path = f"{store.path}/{STORE_FILE}"
        try:
            decode(store.disk.read_file(STORE_FILE, 1 << 16, store.dir_fd))
        except FileNotFoundError:
            self.add(Finding("", -1, "store-settings", DAMAGE, "the file is missing", path))
        except BadSettings as error:
            self.add(
                Finding(
                    "",
                    -1,
                    "store-settings",
                    DAMAGE,
                    f"{error}; the next open for writing makes it anew",
                    path,
                )
            )
        except OSError as error:
            self.add(Finding("", -1, "unreadable", DAMAGE, error.strerror or str(error), path))
        from pspf.store.init import _OURS

        for name in sorted(set(store.disk.listdir(store.dir_fd)) - _OURS):
            self.add(Finding("", -1, "foreign-file", NOTE, "no file of PSPF", f"{store.path}/{name}"))
        if STORE_FILE + ".tmp" in store.disk.listdir(store.dir_fd):
            detail = "an unfinished write of the settings; harmless"
            self.add(Finding("", -1, "leftover", NOTE, detail, f"{path}.tmp"))

    def topic_names(self) -> "list[str]":
        """Names of what can be topics; the rest is named."""
        disk, names = self.store.disk, []
        for name in sorted(disk.listdir(self.store.topics_fd)):
            path = f"{self.store.path}/topics/{name}"
            if name.startswith((".new-", ".del-")):
                detail = "an unfinished create or delete; the next one removes it"
                self.add(Finding("", -1, "leftover", NOTE, detail, path))
                continue
            try:
                check_name(name)
                disk.close(disk.open_dir(name, self.store.topics_fd))
            except (errors.BadName, OSError):
                self.add(
                    Finding(
                        "", -1, "foreign-file", NOTE, "no topic: not a directory, or no topic's name", path
                    )
                )
                continue
            names.append(name)
        return names

    def size_of(self, name: str) -> int:
        """Bytes in the segments of a topic."""
        disk, total = self.store.disk, 0
        try:
            topic_fd = disk.open_dir(name, self.store.topics_fd)
        except OSError:
            return 0
        try:
            for number in filter(is_partition_name, disk.listdir(topic_fd)):
                try:
                    dir_fd = disk.open_dir(number, topic_fd)
                except OSError:
                    continue
                try:
                    for entry in disk.listdir(dir_fd):
                        if base_of(entry) >= 0:
                            total += disk.stat_name(entry, dir_fd).st_size
                except OSError:
                    pass  # retention took it meanwhile
                finally:
                    disk.close(dir_fd)
        finally:
            disk.close(topic_fd)
        return total

    def check_quarantine(self, topics: "list[str] | None") -> None:
        """Bytes that were cut stay a note until somebody has looked at them and removed the file."""
        disk = self.store.disk
        try:
            dir_fd = disk.open_dir("quarantine", self.store.dir_fd)
        except OSError:
            return
        try:
            for name in sorted(disk.listdir(dir_fd)):
                try:
                    size = disk.stat_name(name, dir_fd).st_size
                except FileNotFoundError:
                    continue
                topic, partition, base, position = _quarantined(name)
                path = f"{self.store.path}/quarantine/{name}"
                if partition < 0:
                    if topics is None:
                        self.add(Finding("", -1, "foreign-file", NOTE, "no file of PSPF", path))
                    continue
                if topics is None or topic in topics:
                    detail = (
                        f"{size} bytes were cut from the segment {base:020d}.log at byte {position};"
                        " look at them, then remove the file"
                    )
                    self.add(Finding(topic, partition, "quarantine", NOTE, detail, path, length=size))
        finally:
            disk.close(dir_fd)

    # -- a topic

    def check_topic(self, name: str, asked: bool) -> None:
        """The settings of a topic and all its partitions."""
        disk = self.store.disk
        check_name(name)
        path = f"{self.store.path}/topics/{name}"
        try:
            dir_fd = disk.open_dir(name, self.store.topics_fd)
        except FileNotFoundError:
            if asked:
                raise self.store.no_such_topic(name) from None
            return  # deleted meanwhile
        except OSError as error:
            raise errors.from_os(error, f"cannot verify topic '{name}'", path) from None
        try:
            topic = self._settings(name, path, dir_fd)
            if topic is not None:
                self._partitions(topic)
        finally:
            disk.close(dir_fd)

    def _settings(self, name: str, path: str, dir_fd: int) -> "Topic | None":
        """What the topic is: from ``topic.toml``, else from its segments, else from the file all the same."""
        from pspf.store.rebuild import rebuild

        disk = self.store.disk
        where = f"{path}/{TOPIC_FILE}"
        data = b""
        fault = ""
        try:
            data = disk.read_file(TOPIC_FILE, 1 << 16, dir_fd)
            return _topic(name, path, dir_fd, decode(data))
        except FileNotFoundError:
            fault = "the file is missing"
        except BadSettings as error:
            fault = str(error)
        except errors.NewerFormat as error:
            self.add(Finding(name, -1, "newer-version", DAMAGE, error.why, where))
            return None
        except errors.Error as error:
            fault = error.why or str(error)
        except OSError as error:
            fault = error.strerror or str(error)
        topic = None
        rest = "its records cannot be checked without it"
        try:
            topic = _topic(name, path, dir_fd, rebuild(disk, dir_fd, name, where, "", True, None))
            rest = "its segments repeat what it said"
        except (BadSettings, errors.Error, OSError):
            try:
                topic = _topic(name, path, dir_fd, decode(data, check=False))
                rest = "taken as it is to check the rest"
            except (BadSettings, errors.Error):
                pass
        self.add(Finding(name, -1, "topic-settings", DAMAGE, f"{fault}; {rest}", where))
        return topic

    def _partitions(self, topic: Topic) -> None:
        disk = self.store.disk
        numbers = []
        for name in sorted(disk.listdir(topic.dir_fd)):
            path = f"{topic.path}/{name}"
            if is_partition_name(name):
                numbers.append(int(name))
            elif name.startswith((".new-", TOPIC_FILE + ".tmp")):
                detail = "an unfinished write; nothing was acknowledged in it"
                self.add(Finding(topic.name, -1, "leftover", NOTE, detail, path))
            elif name not in (TOPIC_FILE, PRODUCERS):
                self.add(Finding(topic.name, -1, "foreign-file", NOTE, "no file of PSPF", path))
        for number in sorted(numbers):
            if number >= topic.config.partitions:
                detail = f"the topic has {topic.config.partitions} partitions; nobody reads this one"
                self.add(Finding(topic.name, number, "partition", DAMAGE, detail, f"{topic.path}/{number}"))
            self._partition(topic, number)

    def _partition(self, topic: Topic, number: int) -> None:
        from pspf.store.verify_partition import PartitionCheck

        disk, report = self.store.disk, self.report
        done = self.done
        for attempt in range(_ATTEMPTS):
            self.done = done
            try:
                dir_fd = disk.open_dir(str(number), topic.dir_fd)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    detail = "it is not a directory, or cannot be opened"
                    self.add(
                        Finding(topic.name, number, "unreadable", DAMAGE, detail, f"{topic.path}/{number}")
                    )
                return
            view = PartitionView(disk, topic.identity(number, f"{self.store.path}/quarantine"), dir_fd)
            try:
                owner = disk.stat(self.store.topics_fd).st_uid
                check = PartitionCheck(view, owner, not self.store.read_only, self.advance)
                check.run()
            finally:
                view.close()
            if check.deleted:
                return
            if not check.moved or attempt == _ATTEMPTS - 1:
                break
            # A heal, a cut, a roll or retention went on under our eyes: what looked damaged may be whole.
            # Look again.
        for finding in check.findings:
            self.add(finding)
        report.partitions += 1
        report.segments += check.segments
        report.batches += check.batches
        report.records += check.records
        report.bytes += check.bytes


def _topic(name: str, path: str, dir_fd: int, values: "dict[str, str | int | bool]") -> Topic:
    topic_id, created_ms, config = split_values(values, f"{path}/{TOPIC_FILE}")
    text = encode(topic_values(name, topic_id, created_ms, config, earlier_counts(values)))
    return Topic(name, path, dir_fd, topic_id, created_ms, config, text, (0, 0))


def _quarantined(name: str) -> "tuple[str, int, int, int]":
    """Topic, partition, base and position in a quarantined file's name; partition -1 if it is not one."""
    words = name.split(".")
    for at in (len(words) - 2, len(words) - 3):
        if at >= 2 and len(words[at]) == 20 and all(w.isdecimal() for w in words[at - 1 :]):
            return ".".join(words[: at - 1]), int(words[at - 1]), int(words[at]), int(words[at + 1])
    return "", -1, -1, -1
