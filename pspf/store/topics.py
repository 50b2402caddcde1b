"""``topic.toml`` on the way in and out, and what each handle needs to know of a topic."""

import pspf
from pspf.disk import real
from pspf.disk.real import Disk
from pspf.format.settings import BadSettings, decode, encode
from pspf.log.files import Identity
from pspf.model import CHOICES, LIMITS, MAX_NAME, SETTINGS, TopicConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import pspf.errors

TOPIC_FILE = "topic.toml"
FORMAT_VERSION = 1
_DEFAULTS = TopicConfig()
_MOST_TEXT = 1 << 10
_NO_SETTINGS = ("format_version", "topic_id", "name", "created_ms", "partition_counts")
_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def check_name(name: str, kind: str = "topic") -> str:
    """``name`` if it may be one.

    :raises pspf.errors.BadName: empty, too long, dots only, or with a character outside ``A-Za-z0-9._-``.
    """
    why = ""
    if not name:
        why = "it is empty"
    elif len(name) > MAX_NAME:
        why = f"it has {len(name)} characters, at most {MAX_NAME} are allowed"
    elif name in (".", ".."):
        why = "it names a directory"
    elif not _ALLOWED.issuperset(name):
        bad = next(c for c in name if c not in _ALLOWED)
        why = f"it holds {bad!a}"
    elif name.startswith((".new-", ".del-")):
        why = "names that begin with .new- or .del- are kept for PSPF"
    if why:
        shown = ascii(name if len(name) < 60 else name[:57] + "...")
        hint = f"a {kind}'s name has 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -"
        raise pspf.errors.BadName(f"bad {kind} name {shown}", why, "", hint)
    return name


def check_durability(topic: str, level: "str | None") -> None:
    """Refuse a level that there is not: it would stand for one that does not sync.

    :raises pspf.errors.Usage: it is none of those that a topic can have.
    """
    if level is not None and level not in CHOICES["durability"]:
        from pspf.store.refuse import no_durability

        raise no_durability(topic, level)


class Topic:
    """A topic as a store knows it: its open directory, id and settings.

    ``counts``: how many partitions it had earlier; what they placed lies where they placed it.
    """

    __slots__ = (
        "_disk",
        "_forks",
        "config",
        "counts",
        "created_ms",
        "dir_fd",
        "name",
        "path",
        "settings_text",
        "stamp",
        "topic_id",
    )

    def __init__(
        self,
        name: str,
        path: str,
        dir_fd: int,
        topic_id: bytes,
        created_ms: int,
        config: TopicConfig,
        settings_text: bytes,
        stamp: "tuple[int, int]",
        disk: "Disk | None" = None,
        counts: "tuple[int, ...]" = (),
    ) -> None:
        self.counts = counts
        self._disk = disk
        self._forks = real.forks
        self.name = name
        self.path = path
        self.dir_fd = dir_fd
        self.topic_id = topic_id
        self.created_ms = created_ms
        self.config = config
        self.settings_text = settings_text
        self.stamp = stamp

    def __del__(self) -> None:
        """Close the directory when nobody uses the topic any more: another thread may still be in it when it
        is forgotten.
        """
        if self._disk is not None and self._forks == real.forks:
            try:
                self._disk.close(self.dir_fd)
            except Exception:
                pass  # nobody could be told

    def identity(self, partition: int, quarantine: str) -> Identity:
        """Who partition ``partition`` is."""
        return Identity(
            self.name,
            self.topic_id,
            partition,
            self.config,
            f"{self.path}/{partition}",
            self.settings_text,
            quarantine,
        )


def check_settings(values: "dict[str, object]") -> TopicConfig:
    """A topic's settings from plain values; what is not given has its default.

    :raises pspf.errors.BadConfig: a setting that does not exist, or a value that it cannot have.
    """
    config = TopicConfig()
    for name, value in values.items():
        if name not in SETTINGS:
            raise pspf.errors.BadConfig(
                "unknown topic setting", name, "", f"settings are: {', '.join(SETTINGS)}"
            )
        default = getattr(_DEFAULTS, name)
        if type(value) is not type(default):
            raise pspf.errors.BadConfig(f"bad value for {name}", f"{value!r} is not a {_kind(default)}")
        if name in CHOICES and value not in CHOICES[name]:
            raise pspf.errors.BadConfig(
                f"bad value for {name}", f"{value!r} is none of: {', '.join(CHOICES[name])}"
            )
        if name in LIMITS and not LIMITS[name][0] <= value <= LIMITS[name][1]:  # type: ignore[operator]
            low, high = LIMITS[name]
            raise pspf.errors.BadConfig(f"bad value for {name}", f"{value} is not between {low} and {high}")
        setattr(config, name, value)
    return config


def _kind(default: object) -> str:
    return {"int": "whole number", "str": "string", "bool": "true or false"}[type(default).__name__]


def topic_values(
    name: str, topic_id: bytes, created_ms: int, config: TopicConfig, counts: "tuple[int, ...]" = ()
) -> "dict[str, str | int | bool]":
    """What stands in ``topic.toml``, in order."""
    values: "dict[str, str | int | bool]" = {
        "format_version": FORMAT_VERSION,
        "topic_id": topic_id.hex(),
        "name": name,
        "created_ms": created_ms,
    }
    values.update(config.items())
    if counts:
        values["partition_counts"] = ",".join(map(str, counts))
    return values


def split_values(values: "dict[str, str | int | bool]", where: str) -> "tuple[bytes, int, TopicConfig]":
    """Topic id, creation time and settings from the values of a ``topic.toml``."""
    version = values.get("format_version")
    if not isinstance(version, int):
        raise pspf.errors.Damaged("cannot open the topic", "format_version is missing", where, path=where)
    if version > FORMAT_VERSION:
        raise pspf.errors.NewerFormat(
            "cannot open the topic",
            f"its format is version {version}, this PSPF reads up to {FORMAT_VERSION}",
            where,
            "upgrade with: pip install --upgrade pspf-streams",
        )
    try:
        topic_id = bytes.fromhex(str(values["topic_id"]))
        created_ms = int(values["created_ms"])
    except (KeyError, ValueError):
        raise pspf.errors.Damaged(
            "cannot open the topic", "topic_id or created_ms is missing", where, path=where
        ) from None
    if len(topic_id) != 16:
        raise pspf.errors.Damaged("cannot open the topic", "topic_id is not 32 hex digits", where, path=where)
    rest = {k: v for k, v in values.items() if k not in _NO_SETTINGS}
    return topic_id, created_ms, check_settings(rest)  # type: ignore[arg-type]


def load_topic(
    disk: Disk,
    topics_fd: int,
    topics_path: str,
    name: str,
    read_only: bool,
    tell: "Callable[[str], None] | None",
) -> "Topic | None":
    """The topic of that name; None if there is none.

    :raises pspf.errors.Damaged: ``topic.toml`` was changed by hand, or is damaged and cannot be rebuilt.
    """
    try:
        dir_fd = disk.open_dir(name, topics_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise pspf.errors.from_os(error, f"cannot open topic '{name}'", f"{topics_path}/{name}") from None
    path = f"{topics_path}/{name}"
    where = f"{path}/{TOPIC_FILE}"
    try:
        fault = "is missing"
        text = b""
        values = None
        inode = 0
        try:
            inode = disk.stat_name(
                TOPIC_FILE, dir_fd
            ).st_ino  # before it is read: a later change is then noticed
            data = disk.read_file(TOPIC_FILE, 1 << 16, dir_fd)
            values = decode(data)
            text = data
        except FileNotFoundError:
            pass
        except BadSettings as error:
            from pspf.store.rebuild import looks_whole

            fault = f"is damaged ({error})"
            if error.changed and looks_whole(data):
                raise pspf.errors.Damaged(
                    f"cannot open topic '{name}'",
                    f"{TOPIC_FILE} was changed by hand or damaged: {error}",
                    where,
                    f"to take it in as it is: pspf topic alter {name} --from {where}",
                    path=where,
                ) from None
        if values is None:
            from pspf.disk.atomic import leads_to
            from pspf.store.rebuild import rebuild

            if not leads_to(disk, path, dir_fd):
                disk.close(dir_fd)
                return None  # it is being deleted
            values = rebuild(disk, dir_fd, name, where, fault, read_only, tell)
        topic_id, created_ms, config = split_values(values, where)
        if values.get("name", name) != name and not read_only:
            # Who renamed it was killed, or is not done: nobody may rely on a name that a power cut takes.
            disk.fsync(topics_fd)
        counts: "tuple[int, ...]" = ()
        if "partition_counts" in values:
            from pspf.store.counts import earlier_counts

            counts = earlier_counts(values)
        if values.get("name") != name or not 0 < len(text) < _MOST_TEXT:  # else it is what would be written
            text = encode(topic_values(name, topic_id, created_ms, config, counts))
        stat = disk.stat(dir_fd)
        stamp = (stat.st_ino, inode)
        return Topic(name, path, dir_fd, topic_id, created_ms, config, text, stamp, disk, counts)
    except OSError as error:
        disk.close(dir_fd)
        raise pspf.errors.from_os(error, f"cannot open topic '{name}'", where) from None
    except BaseException:
        disk.close(dir_fd)
        raise
