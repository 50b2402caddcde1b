"""Check one segment: every batch in it, where it ends, and what lies behind that."""

from pspf.format.batch import HEADER_BYTES, header_fault, parse_header
from pspf.format.segment import REASON_ROLL, SEGMENT_HEADER_BYTES
from pspf.log.scan import Scanner, headers_behind, only_zeros
from pspf.store.verify import DAMAGE, NOTE
from pspf.store.verify_batch import BatchCheck, IndexCheck

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.batch import Header
    from pspf.format.segment import SegmentHeader
    from pspf.store.verify_partition import PartitionCheck


class SegmentWalk:
    """The way through one segment. ``whole``: nothing was wrong up to ``offset``; ``chain`` is None behind
    a break.
    """

    __slots__ = (
        "_batches",
        "_check",
        "_fd",
        "_header",
        "_index",
        "_path",
        "_scanner",
        "_size",
        "base",
        "chain",
        "offset",
        "whole",
    )

    def __init__(
        self,
        check: "PartitionCheck",
        fd: int,
        base: int,
        header: "SegmentHeader | None",
        segment_id: int,
        size: int,
        path: str,
    ) -> None:
        self._check = check
        self._fd = fd
        self._header = header
        self._size = size
        self._path = path
        self.base = base
        self.chain: "int | None" = header.crc if header is not None else None
        self.offset = base
        self.whole = True
        self._batches = BatchCheck(check, path)
        self._index = IndexCheck(check.view, base, segment_id)
        disk = check.view.disk
        self._scanner = Scanner(disk, fd, segment_id, SEGMENT_HEADER_BYTES, base, self.chain, size)

    def walk(self, ahead: "SegmentHeader | None", following: int) -> None:
        """Check all batches, up to the end that the next segment or ``commit`` gives."""
        check, commit, scanner = self._check, self._check.commit, self._scanner
        active = commit is not None and commit.active_base == self.base and following < 0
        open_end = (
            following < 0 and not active
        )  # nobody says where it ends: it does, behind its last valid batch
        linked = ahead is not None and ahead.prev_base == self.base
        place, end = self._size, following
        if active:
            assert commit is not None
            place, end = commit.visible_position, commit.visible_offset
        elif linked:
            assert ahead is not None
            place, end = ahead.prev_position, ahead.prev_end
        scanner.size = min(place, self._size)
        if open_end:
            self._open_end()
        else:
            # Where the next segment follows another one, what is missing in between is told by the boundary.
            self._to(end, place, linked or ahead is None, linked or active)
        check.advance(self._size)
        self.offset, self.chain = scanner.offset, scanner.chain
        if active and self.whole and scanner.position == place:
            scanner.size = self._size
            self._unsettled()
        elif not active and not open_end and self.whole and scanner.position < self._size:
            # Behind a heal or a recorded gap the rest of the old file is known, and stays.
            self._long(scanner.position, not linked or ahead is None or ahead.reason == REASON_ROLL)
        if self.whole:
            self._index.compare(check, self._path, scanner.position if not active else min(place, self._size))

    def _to(self, end: int, place: int, exact: bool, certain: bool) -> None:
        """Every batch up to offset ``end`` and byte ``place``.

        :param exact: they reach ``end``; otherwise to where they cease, and the boundary tells the rest.
        :param certain: ``place`` was recorded, and is not just the size of the file.
        """
        check, scanner = self._check, self._scanner
        seen_twice = -1
        while True:
            position = scanner.position
            header = scanner.step()
            if header is not None:
                if header.next_offset > end:
                    self._broken()
                    detail = f"it goes on past offset {end}, where the next segment begins"
                    first = max(header.base_offset, end)
                    check.add(
                        "segment-overlap",
                        DAMAGE,
                        detail,
                        self._path,
                        first,
                        header.next_offset,
                        position,
                        header.size,
                    )
                    return
                self._accept(header, position)
                continue
            if scanner.fault and scanner.offset == end and not certain:
                return  # whatever it is, it lies behind the last record: see _long
            if scanner.fault and seen_twice != position:
                seen_twice = position  # who reads while a writer writes can have read too early
                scanner.reread()
                continue
            if not scanner.fault or not self._over_damage(position, end):
                break
        if scanner.offset < end and not exact:
            self._broken()
        elif scanner.offset < end:
            self._broken()
            kind = "segment-short" if scanner.size < place or not scanner.fault else _kind_of(scanner.fault)
            detail = scanner.fault or "the segment ends before its last record"
            if kind == "segment-short":
                detail = f"{self._size} bytes, where {place} are expected" if place > self._size else detail
            length = max(place, self._size) - scanner.position
            check.add(kind, DAMAGE, detail, self._path, scanner.offset, end, scanner.position, length)
            scanner.offset = end
        elif scanner.size < place or (scanner.fault and scanner.position < scanner.size):
            # The records are all there; a control batch at the end is not.
            self._broken()
            kind = "segment-short" if scanner.size < place else _kind_of(scanner.fault)
            detail = scanner.fault or f"{self._size} bytes, where {place} are expected"
            length = place - scanner.position
            check.add(kind, DAMAGE, detail, self._path, -1, -1, scanner.position, length)

    def _accept(self, header: "Header", position: int) -> None:
        check, scanner = self._check, self._scanner
        check.batches += 1
        check.bytes += header.size
        check.records += header.count
        if header.epoch < check.epoch:
            detail = f"its leader epoch is {header.epoch}, and a batch before it has {check.epoch}"
            first, behind = header.base_offset, header.next_offset
            check.add("epoch", DAMAGE, detail, self._path, first, behind, position, header.size)
        check.epoch = max(check.epoch, header.epoch)
        self._index.note(position, header)
        self._batches.contents(header, scanner.body, position)

    def _broken(self) -> None:
        self.whole = False

    def _over_damage(self, position: int, end: int) -> bool:
        """Name the damage at ``position`` and go on behind it; False when nothing valid follows below
        ``end``.
        """
        check, scanner, disk = self._check, self._scanner, self._check.view.disk
        fault, offset = scanner.fault, scanner.offset
        data = disk.pread(self._fd, HEADER_BYTES, position)
        if not header_fault(data, 0, scanner.segment_id, position):
            header = parse_header(data)
            if (
                position + header.size <= scanner.size
                and header.next_offset <= end
                and header.base_offset >= offset
            ):
                # Its header is whole, so the next batch is found by length.
                self._broken()
                behind = header.next_offset
                kind = _kind_of(fault)
                if header.base_offset > offset and kind == "batch-offset":
                    behind = header.base_offset  # it is whole itself: what is missing lies before it
                    check.add(kind, DAMAGE, fault, self._path, offset, behind, position, 0)
                    scanner.restart(position, behind)
                    return True
                check.add(kind, DAMAGE, fault, self._path, offset, behind, position, header.size)
                scanner.restart(position + header.size, behind)
                scanner.chain = header.crc
                return True
        for at, header in headers_behind(
            disk, self._fd, scanner.segment_id, position + 1, scanner.size, offset
        ):
            if header.next_offset > end or at + header.size > scanner.size:
                continue
            self._broken()
            check.add(
                _kind_of(fault),
                DAMAGE,
                fault,
                self._path,
                offset,
                header.base_offset,
                position,
                at - position,
            )
            scanner.restart(at, header.base_offset)
            return True
        scanner.fault = fault
        return False

    def _open_end(self) -> None:
        """A last segment whose end nobody names: ``commit`` is unreadable, or names an earlier one."""
        check, scanner = self._check, self._scanner
        end = 1 << 63
        while True:
            position = scanner.position
            header = scanner.step()
            if header is not None:
                self._accept(header, position)
                continue
            if not scanner.fault or scanner.rest_is_zero():
                break
            if self._proof(position) and self._over_damage(position, end):
                continue
            length = self._size - position
            if self._sealed():
                return
            if check.commit is None:
                detail = f"{scanner.fault}; without 'commit' it may have been acknowledged: see pspf repair"
                check.add("doubt", DAMAGE, detail, self._path, position=position, length=length)
            else:
                detail = (
                    f"{length} bytes behind offset {scanner.offset} are unfinished; the next append cuts them"
                )
                check.add("unsettled", NOTE, detail, self._path, position=position, length=length)
            return
        if check.commit is not None and not self._sealed():
            detail = "a segment that is not published yet; the next open does it"
            check.add("unsettled", NOTE, detail, self._path, position=0, length=self._size)

    def _sealed(self) -> bool:
        """Whether ``commit`` names a later segment, which is missing: this one reached up to its base."""
        check, scanner = self._check, self._scanner
        if check.commit is None or check.commit.active_base <= self.base:
            return False
        behind = check.commit.active_base
        if scanner.offset < behind:
            self._broken()
            fault = scanner.fault or "the segment ends early"
            length = max(self._size - scanner.position, 0)
            check.add(
                _kind_of(fault), DAMAGE, fault, self._path, scanner.offset, behind, scanner.position, length
            )
        return True

    def _proof(self, position: int) -> bool:
        """Whether a later batch knew that what cannot be read at ``position`` was durable."""
        scanner, disk = self._scanner, self._check.view.disk
        behind = headers_behind(
            disk, self._fd, scanner.segment_id, position + 1, scanner.size, scanner.offset
        )
        return any(header.durable_end > scanner.offset for _, header in behind)

    def _unsettled(self) -> None:
        """Behind the published end: zeros written ahead, records that are being written, or what a crash
        left.
        """
        check, scanner = self._check, self._scanner
        start, offset = scanner.position, scanner.offset
        while True:
            scanner.reread()
            while scanner.step() is not None:
                pass
            if not scanner.fault or scanner.rest_is_zero():
                break
            position, at = scanner.position, scanner.offset
            if not self._proof(position) or not self._over_damage(position, 1 << 63):
                break
            if scanner.position == position and scanner.offset == at:
                break
        if only_zeros(check.view.disk, self._fd, start, self._size):
            return
        torn = "" if scanner.rest_is_zero() else f", {self._size - scanner.position} bytes are no whole batch"
        detail = (
            f"behind the published end: {max(scanner.offset - offset, 0)} whole records{torn}; being written"
            " now, or left by a crash (the next open settles it)"
        )
        check.add("unsettled", NOTE, detail, self._path, position=start, length=self._size - start)

    def _long(self, position: int, unexpected: bool) -> None:
        """Bytes behind the end of a segment that has a successor."""
        check = self._check
        if not unexpected:
            return
        zeros = only_zeros(check.view.disk, self._fd, position, self._size)
        detail = f"{'zeros' if zeros else 'bytes'} behind its last batch; no record is in them"
        check.add(
            "segment-long",
            NOTE if zeros else DAMAGE,
            detail,
            self._path,
            position=position,
            length=self._size - position,
        )


def _kind_of(fault: str) -> str:
    """The kind of damage for what the scanner says is wrong."""
    if "chain" in fault:
        return "batch-chain"
    if "batch CRC" in fault:
        return "batch-body"
    if "instead of" in fault:
        return "batch-offset"
    return "batch-header"
