"""Check what is inside a batch whose CRC holds, and the index against the batches."""

from pspf import errors
from pspf.format.batch import (
    FLAG_CONTROL,
    KIND_COLUMNS,
    KIND_EPOCH,
    KIND_GAP,
    KIND_PRODUCERS,
    KIND_TABLE,
    VERSION,
)
from pspf.format.columns import BadBody, Columns, unpack_headers
from pspf.format.index import CHUNK, ENTRY_BYTES, UNKNOWN, decode_entries, entry_place
from pspf.format.producers import decode_table
from pspf.log.index import index_name, rebuild
from pspf.store.verify import DAMAGE, NOTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.batch import Header
    from pspf.store.looking import PartitionView
    from pspf.store.verify_partition import PartitionCheck

_MOST_RECORDS = 1 << 18
_LEAST = -(1 << 63)


class BatchCheck:
    """Looks into the batches of one segment."""

    __slots__ = ("_check", "_path")

    def __init__(self, check: "PartitionCheck", path: str) -> None:
        self._check = check
        self._path = path

    def contents(self, header: "Header", body: "bytes | memoryview", position: int) -> None:
        """What a batch holds fits together; otherwise it was written wrong, or forged."""
        check = self._check
        kind, why = "batch-columns", ""
        try:
            if header.version > VERSION:
                kind, why = "newer-version", "it was written by a newer version of PSPF"
            elif header.kind == KIND_COLUMNS:
                if header.flags & FLAG_CONTROL or not header.count:
                    why = "a batch of columns without records"
                else:
                    _columns(header, body)
            elif header.kind in (KIND_TABLE, KIND_PRODUCERS):
                kind = "producer-table"
                decode_table(bytes(body))
            elif header.kind not in (KIND_GAP, KIND_EPOCH):
                why = f"a body of unknown kind {header.kind}"
        except errors.BadConfig:  # zstandard is not installed
            check.unchecked()
        except (ValueError, MemoryError) as error:
            why = str(error) or "more memory is needed than there is"
        if why:
            check.add(
                kind, DAMAGE, why, self._path, header.base_offset, header.next_offset, position, header.size
            )


def _columns(header: "Header", body: "bytes | memoryview") -> None:
    columns = Columns(header, body)
    if header.count > _MOST_RECORDS:
        # So many are never made by an append of ours; taking them apart would need memory without a bound.
        if columns.is_lines() and bytes(columns.region()).count(b"\n") != header.count:
            raise BadBody("the number of lines is not the number of records")
        return
    offsets = columns.offsets()
    if not isinstance(offsets, range) and (
        offsets[0] < header.base_offset
        or offsets[-1] >= header.next_offset
        or any(a >= b for a, b in zip(offsets, offsets[1:], strict=False))
    ):
        raise BadBody("its offsets do not ascend within its span")
    if isinstance(offsets, range) and header.span != header.count:
        raise BadBody("fewer records than offsets, and no column that says which")
    times = columns.timestamps()
    if times is not None and (min(times) < header.base_timestamp or max(times) > header.max_timestamp):
        raise BadBody("a timestamp outside the range that the header gives")
    for blob in set(columns.header_blobs() or ()):
        unpack_headers(blob)
    if columns.record_crcs() is None:
        columns.values()
        columns.keys()
    elif not all(columns.good_records()):
        number = columns.good_records().index(False)
        raise BadBody(f"the batch CRC holds, but not the CRC of its record at offset {offsets[number]}")


class IndexCheck:
    """What the index of a segment should hold, gathered from the batches, a few bytes for each 256 KiB."""

    __slots__ = ("_base", "_first", "_greatest", "_segment_id", "_view")

    def __init__(self, view: "PartitionView", base: int, segment_id: int) -> None:
        self._view = view
        self._base = base
        self._segment_id = segment_id
        self._first: "dict[int, tuple[int, int, int]]" = {}
        self._greatest: "dict[int, int]" = {}

    def note(self, position: int, header: "Header") -> None:
        """A batch at ``position``."""
        place = entry_place(position)
        if place not in self._first:
            self._first[place] = (header.base_offset, position, header.append_ns)
            self._greatest[place] = _LEAST
        if header.count:
            self._greatest[place] = max(self._greatest[place], header.max_timestamp)

    def compare(self, check: "PartitionCheck", path: str, end: int) -> None:
        """Compare the index with the batches up to byte ``end``; write it anew if it is wrong, and we may."""
        if not self._first:
            return
        fault = self._fault(end)
        if not fault:
            return
        view = self._view
        detail = f"{fault}; it is derived, and read past"
        if check.rebuilds:
            fd = -1
            try:
                segment = view.open_segment(self._base)
                if segment is not None:
                    fd = segment.fd
                    rebuild(view, segment, end)
                    detail = f"{fault}; rebuilt"
            except (OSError, errors.Error):
                pass
            finally:
                if fd >= 0:
                    view.disk.close(fd)
        check.add("index", NOTE, detail, f"{view.identity.path}/{index_name(self._base)}")

    def _fault(self, end: int) -> str:
        data = self._view.small(index_name(self._base), (end // CHUNK + 2) * ENTRY_BYTES)
        if data is None:
            # Below 512 KiB nobody looks for it, and a segment that begins with a control batch may have none.
            return "the file is missing" if max(self._first) >= 2 * ENTRY_BYTES else ""
        if len(data) % ENTRY_BYTES:
            return "its length is not that of whole entries"
        entries = decode_entries(data, self._segment_id)
        filled = sum(any(data[at : at + ENTRY_BYTES]) for at in range(0, len(data), ENTRY_BYTES))
        if filled != len(entries):
            return "entries that do not check"
        for entry in entries:
            if entry.position >= end:
                continue  # a writer is ahead of us
            place = entry_place(entry.position)
            if self._first.get(place) != (entry.base_offset, entry.position, entry.append_ns):
                return f"its entry for byte {entry.position} is not that of a batch"
            between = [g for at, g in self._greatest.items() if entry_place(entry.previous) <= at < place]
            if entry.max_before != UNKNOWN and entry.max_before < max(between, default=_LEAST):
                return f"its entry for byte {entry.position} hides a later timestamp"
        if len(entries) * 2 < len(self._first) - 1:
            return f"it has {len(entries)} entries of {len(self._first)}"
        return ""


def index_base(name: str) -> int:
    """Base offset in the name of an index file, -1 if it is not one."""
    if len(name) == 26 and name.endswith(".index") and name[:20].isdigit() and name[:20].isascii():
        return int(name[:20])
    return -1
