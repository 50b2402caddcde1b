"""The bytes of a segment, piece by piece: a row for its header, one for each batch, and one for what lies
behind.

Nothing is trusted and nothing is raised for damage: a row shows what is wrong, and the next one begins at the
next batch that can be found. Only headers are checked and decoded; of a body, its CRC.
"""

from os.path import realpath
from stat import S_ISREG

from pspf import errors
from pspf.disk.real import Disk
from pspf.format import batch as b
from pspf.format.segment import (
    REASON_DAMAGE,
    REASON_FIRST,
    REASON_HEAL,
    REASON_ROLL,
    SEGMENT_HEADER_BYTES,
    base_of,
    parse_segment,
    segment_fault,
    segment_name,
)
from pspf.log.scan import find_segment_id, headers_behind, only_zeros
from pspf.store.looking import TopicView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pspf.store.store import Store

KINDS = {
    b.KIND_COLUMNS: "columns",
    b.KIND_KAFKA: "kafka",
    b.KIND_TABLE: "producers",
    b.KIND_GAP: "gap",
    b.KIND_EPOCH: "epoch",
    b.KIND_PRODUCERS: "producers-added",
}
CODECS = {b.CODEC_NONE: "none", b.CODEC_ZSTD: "zstd"}
FLAGS = {
    b.FLAG_CONTROL: "control",
    b.FLAG_TRANSACTIONAL: "transactional",
    b.FLAG_LOG_APPEND_TIME: "log-append-time",
    b.FLAG_KEYS: "keys",
    b.FLAG_HEADERS: "headers",
    b.FLAG_TIMES: "times",
    b.FLAG_LINES: "lines",
    b.FLAG_SOURCE: "source",
}
NEWER = "written by a newer version of PSPF"
REASONS = {REASON_FIRST: "first", REASON_ROLL: "roll", REASON_HEAL: "heal", REASON_DAMAGE: "damage"}


def inspect(
    store: "Store", target: str, partition: int = 0, segment: "int | None" = None
) -> "Iterator[dict[str, object]]":
    """Rows for the segments of a partition, or for one file.

    :param target: a topic, or the path of a segment file, wherever it is.
    :param segment: only the segment that holds this offset; all of them by default.
    :returns: dicts; ``type`` is ``segment``, ``batch``, ``damage``, ``zeros`` or ``tail``.
    :raises pspf.errors.NoSuchTopic: neither topic nor file.
    """
    store._usable()
    if "/" in target or (base_of(target) >= 0 and target not in store.topics()):
        return _file(store.disk, target)
    return _partition(store, target, partition, segment)


def inspect_file(path: str, disk: "Disk | None" = None) -> "Iterator[dict[str, object]]":
    """The rows of a segment file, wherever it is; no store is needed. Symlinks are followed: the path is the
    caller's.
    """
    return _file(disk or Disk(), path)


def _file(disk: "Disk", path: str) -> "Iterator[dict[str, object]]":
    real = realpath(path)
    try:
        if not S_ISREG(disk.stat_name(real).st_mode):
            raise errors.Usage(f"cannot inspect {path}", "it is no file", "", "pspf inspect TOPIC, or a path")
        fd = disk.open(real)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            missing = errors.NoSuchTopic(
                f"no such segment file {path}", "", "", "pspf inspect TOPIC, or a path"
            )
            raise missing from None
        raise errors.from_os(error, f"cannot inspect {path}") from None
    try:
        yield from _segment(disk, fd, path)
    except OSError as error:
        raise errors.from_os(error, f"cannot inspect {path}", path) from error
    finally:
        disk.close(fd)


def _partition(
    store: "Store", name: str, partition: int, wanted: "int | None"
) -> "Iterator[dict[str, object]]":
    with TopicView(store, name) as topic_view:
        if not 0 <= partition < topic_view.topic.config.partitions:
            raise store.no_such_partition(topic_view.topic, partition, reading=True)
        view = topic_view.partition(partition)
        if view is None:
            return
        try:
            bases = view.segment_bases()
            if wanted is not None:
                bases = [max((x for x in bases if x <= wanted), default=-1)]
                if bases == [-1]:
                    raise errors.Usage(f"no segment of {view.identity} begins at or before offset {wanted}")
            for base in bases:
                try:
                    fd = store.disk.open(segment_name(base), 0, view.dir_fd)
                except FileNotFoundError:
                    continue
                try:
                    yield from _segment(store.disk, fd, view.path_of(base))
                finally:
                    store.disk.close(fd)
        except OSError as error:
            raise errors.from_os(error, f"cannot inspect {view.identity}", view.identity.path) from error
        finally:
            view.close()


def _segment(disk: "Disk", fd: int, path: str) -> "Iterator[dict[str, object]]":
    size = disk.size(fd)
    block = disk.pread(fd, SEGMENT_HEADER_BYTES, 0)
    fault = segment_fault(block)
    row: "dict[str, object]" = {"type": "segment", "path": path, "bytes": size, "header": fault or "ok"}
    segment_id, chain, offset = 0, None, 0
    if fault == "newer":
        row["header"] = NEWER
    if not fault:
        header = parse_segment(block)
        segment_id, chain, offset = header.segment_id, header.crc, header.base
        row.update(
            segment_id=f"{header.segment_id:016x}",
            topic_id=header.topic_id.hex(),
            partition=header.partition,
            base_offset=header.base,
            generation=header.generation,
            epoch=header.epoch,
            created_ns=header.created_ns,
            reason=REASONS.get(header.reason, str(header.reason)),
            previous_base=header.prev_base,
            previous_end=header.prev_end,
            previous_position=header.prev_position,
            previous_crc=f"{header.prev_crc:08x}",
            log_start=header.log_start,
            epochs=[list(entry) for entry in header.epochs],
            settings=header.settings.decode("utf-8", "replace"),
            crc=f"{header.crc:08x}",
        )
    elif fault != "newer":
        segment_id = find_segment_id(disk, fd, size)
        row["segment_id"] = f"{segment_id:016x}" if segment_id else None
    yield row
    if fault != "newer":
        yield from _batches(disk, fd, segment_id, chain, offset, size)


def _batches(
    disk: "Disk", fd: int, segment_id: int, chain: "int | None", offset: int, size: int
) -> "Iterator[dict[str, object]]":
    position = SEGMENT_HEADER_BYTES
    while position < size:
        head = disk.pread(fd, b.HEADER_BYTES, position)
        fault = b.header_fault(head, 0, segment_id, position)
        if not fault:
            header = b.parse_header(head)
            yield _row(disk, fd, position, head, header, chain, size)
            chain, offset = header.crc, header.next_offset
            position += header.size
            continue
        if only_zeros(disk, fd, position, size):
            yield {"type": "zeros", "position": position, "bytes": size - position}
            return
        found = next(headers_behind(disk, fd, segment_id, position + 1, size, 0), None)
        behind = found[0] if found is not None else size
        yield {
            "type": "damage" if found is not None else "tail",
            "position": position,
            "bytes": behind - position,
            "offset": offset,
            "fault": fault,
        }
        chain, position = None, behind


def _row(
    disk: "Disk", fd: int, position: int, head: bytes, header: "b.Header", chain: "int | None", size: int
) -> "dict[str, object]":
    body = disk.pread(fd, header.body_length, position + b.HEADER_BYTES)
    if len(body) < header.body_length:
        crc = "cut short"
    else:
        crc = "ok" if b.batch_crc_of(head, body) == header.batch_crc else "bad"
    flags = [name for bit, name in FLAGS.items() if header.flags & bit]
    unknown = header.flags & ~sum(FLAGS)
    if unknown:
        flags.append(f"{unknown:#x}")
    return {
        "type": "batch",
        "position": position,
        "bytes": header.size,
        "first_offset": header.base_offset,
        "last_offset": header.next_offset - 1,
        "count": header.count,
        "kind": KINDS.get(header.kind, str(header.kind)),
        "codec": CODECS.get(header.codec, str(header.codec)),
        "flags": flags,
        "version": header.version,
        "body_bytes": header.body_length,
        "plain_bytes": header.plain_length,
        "base_timestamp_ms": header.base_timestamp,
        "max_timestamp_ms": header.max_timestamp,
        "append_time_ns": header.append_ns,
        "epoch": header.epoch,
        "durable_end": header.durable_end,
        "producer_id": header.producer_id if header.producer_id >= 0 else None,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
        "extension_bytes": header.extension_length,
        "table_back": header.table_back if header.table_back != b.NO_TABLE else None,
        "header_crc": f"{header.crc:08x}",
        "chain": "unknown" if chain is None else "ok" if header.chain == chain else "bad",
        "crc": crc,
    }
