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
        why = f"it holds {bad!a}; allowed are A-Z a-z 0-9 . _ -"
    elif name.startswith((".new-", ".del-")):
        why = "names that begin with .new- or .del- are kept for PSPF"
    if why:
        shown = ascii(name if len(name) < 60 else name[:57] + "...")
        raise pspf.errors.BadName(f"bad {kind} name {shown}", why)
    return name


class Topic:
    """A topic as a store knows it: its open directory, id and settings."""

    __slots__ = (
        "_disk",
        "_forks",
        "config",
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
    ) -> None:
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
    name: str, topic_id: bytes, created_ms: int, config: TopicConfig
) -> "dict[str, str | int | bool]":
    """What stands in ``topic.toml``, in order."""
    values: "dict[str, str | int | bool]" = {
        "format_version": FORMAT_VERSION,
        "topic_id": topic_id.hex(),
        "name": name,
        "created_ms": created_ms,
    }
    values.update(config.items())
    return values


def split_values(values: "dict[str, str | int | bool]", where: str) -> "tuple[bytes, int, TopicConfig]":
    """Topic id, creation time and settings from the values of a ``topic.toml``."""
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
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
    rest = {k: v for k, v in values.items() if k not in ("format_version", "topic_id", "name", "created_ms")}
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
        values = None
        inode = 0
        try:
            inode = disk.stat_name(
                TOPIC_FILE, dir_fd
            ).st_ino  # before it is read: a later change is then noticed
            data = disk.read_file(TOPIC_FILE, 1 << 16, dir_fd)
            values = decode(data)
        except FileNotFoundError:
            pass
        except BadSettings as error:
            fault = f"is damaged ({error})"
            if error.changed and _looks_whole(data):
                raise pspf.errors.Damaged(
                    f"cannot open topic '{name}'",
                    f"{TOPIC_FILE} was changed by hand or damaged: {error}",
                    where,
                    f"to take it in as it is: pspf topic alter {name} --from {where}",
                    path=where,
                ) from None
        if values is None:
            values = _rebuild(disk, dir_fd, name, where, fault, read_only, tell)
        topic_id, created_ms, config = split_values(values, where)
        text = encode(topic_values(name, topic_id, created_ms, config))
        stat = disk.stat(dir_fd)
        return Topic(name, path, dir_fd, topic_id, created_ms, config, text, (stat.st_ino, inode), disk)
    except OSError as error:
        disk.close(dir_fd)
        raise pspf.errors.from_os(error, f"cannot open topic '{name}'", where) from None
    except BaseException:
        disk.close(dir_fd)
        raise


def _looks_whole(data: bytes) -> bool:
    """Whether a file whose checksum fails would be valid otherwise: somebody may have meant it."""
    try:
        split_values(decode(data, check=False), "")
    except (BadSettings, pspf.errors.Error):
        return False
    return True


def _rebuild(
    disk: Disk,
    dir_fd: int,
    name: str,
    where: str,
    fault: str,
    read_only: bool,
    tell: "Callable[[str], None] | None",
) -> "dict[str, str | int | bool]":
    """``topic.toml`` from the newest segment header that repeats it."""
    from pspf.disk.atomic import replace_file
    from pspf.format.segment import SEGMENT_HEADER_BYTES, base_of, parse_segment, segment_fault

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
    raise pspf.errors.Damaged(
        f"cannot open topic '{name}'",
        f"{TOPIC_FILE} {fault}, and no segment repeats its settings",
        where,
        f"write one and take it in with: pspf topic alter {name} --from FILE",
        path=where,
    )
