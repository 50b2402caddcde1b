"""The simulated machine: inodes with a page cache above a medium, directories, and what is not yet synced.

A file has two contents. ``cache`` is what every process reads. ``medium`` is what certainly outlives a power
cut. Between them stand the versions of each dirty page, one per write, and the sizes the file went through:
the raw material of :mod:`pspf.testing.crashes`. The page (4 KiB) is the unit that the cache writes back: a
small write into a page whose earlier write-back was lost brings the whole page to the medium with the next
sync, as it does in a kernel.

A directory has three tables: the one that processes see, the one that is stable if only a directory's own
fsync counts (``strict``), and the one that is stable where the file system has one journal, so that whatever
forces the journal makes all earlier changes of names stable too (``ordered``).
"""

from collections.abc import Callable, Iterable
from typing import Protocol

PAGE = 4096
SECTOR = 512
ZERO_PAGE = bytes(PAGE)


class OpenFile:
    """An open file description: what a descriptor stands for, and what a flock belongs to."""

    __slots__ = ("error_seen", "name", "node", "writable")

    def __init__(self, node: "File | Directory", name: str, writable: bool) -> None:
        self.node = node
        self.name = name
        self.writable = writable
        # As in the kernel: an error that nobody was told of yet is told to a later opener, too.
        self.error_seen = node.errors if node.errors_told else node.errors - 1


Place = tuple["Directory", str]


class Node:
    """What files and directories share."""

    __slots__ = (
        "errors",
        "errors_told",
        "exclusive",
        "ino",
        "mode",
        "nlink",
        "ordered_at",
        "shared",
        "strict_at",
    )

    def __init__(self, ino: int, mode: int) -> None:
        self.ino = ino
        self.mode = mode
        self.nlink = 0
        # Where the node stands in the tables of stable names; it has one name or none.
        self.strict_at: Place | None = None
        self.ordered_at: Place | None = None
        self.exclusive: OpenFile | None = None
        self.shared: set[OpenFile] = set()
        # Failed write-backs so far, and whether some sync has reported the last one.
        self.errors = 0
        self.errors_told = True

    def lock(self, holder: OpenFile, exclusive: bool) -> bool:
        """``flock`` without waiting. As in Linux a conversion first gives up the lock it converts."""
        if (self.exclusive is holder) if exclusive else (holder in self.shared):
            return True
        self.unlock(holder)
        if self.exclusive is not None or (exclusive and self.shared):
            return False
        if exclusive:
            self.exclusive = holder
        else:
            self.shared.add(holder)
        return True

    def unlock(self, holder: OpenFile) -> None:
        if self.exclusive is holder:
            self.exclusive = None
        self.shared.discard(holder)


class File(Node):
    """A regular file."""

    __slots__ = ("cache", "medium", "sizes", "versions")

    def __init__(self, ino: int, mode: int, content: bytes = b"") -> None:
        super().__init__(ino, mode)
        self.cache = bytearray(content)
        self.medium = bytearray(content)
        # Per dirty page: (when, the page after that write), oldest first.
        self.versions: dict[int, list[tuple[int, bytes]]] = {}
        # (when, size after that), oldest first.
        self.sizes: list[tuple[int, int]] = []

    @property
    def dirty(self) -> bool:
        return bool(self.versions or self.sizes)

    def _page(self, page: int) -> bytes:
        return bytes(self.cache[page * PAGE : page * PAGE + PAGE]).ljust(PAGE, b"\0")

    def _touch(self, start: int, end: int, now: int) -> None:
        for page in range(start // PAGE, (end + PAGE - 1) // PAGE):
            self.versions.setdefault(page, []).append((now, self._page(page)))

    def write(self, position: int, data: "bytes | memoryview", now: int) -> None:
        if not data:
            return
        old = len(self.cache)
        if position > old:
            self.cache.extend(bytes(position - old))
        self.cache[position : position + len(data)] = data
        if len(self.cache) != old:
            self.sizes.append((now, len(self.cache)))
        self._touch(position, position + len(data), now)

    def resize(self, size: int, now: int) -> None:
        old = len(self.cache)
        if size == old:
            return
        if size < old:
            del self.cache[size:]
            self._touch(size, old, now)
        else:
            self.cache.extend(bytes(size - old))
        self.sizes.append((now, size))

    def sync(self, pages: int | None = None) -> None:
        """Dirty pages and the size to the medium; with ``pages`` only that many of the first pages."""
        chosen = sorted(self.versions)[:pages]
        # A size that was lost in a failed sync comes back with the pages that are written later, not before.
        size = self.sizes[-1][1] if self.sizes and pages is None else len(self.medium)
        for page in chosen:
            size = max(size, min(page * PAGE + PAGE, len(self.cache)))
        if size < len(self.medium):
            del self.medium[size:]
        else:
            self.medium.extend(bytes(size - len(self.medium)))
        for page in chosen:
            start = page * PAGE
            end = min(start + PAGE, size)
            if start < end:
                self.medium[start:end] = self.versions[page][-1][1][: end - start]
        if pages is None:
            self.forget()

    def forget(self, keep_size: bool = False) -> None:
        """Dirty pages become clean without being written: the cache is right, the medium is not."""
        if keep_size and len(self.cache) > len(self.medium):
            self.medium.extend(bytes(len(self.cache) - len(self.medium)))
        self.versions.clear()
        self.sizes.clear()

    def forget_range(self, start: int, end: int, keep_size: bool) -> None:
        """:meth:`forget` for the pages of one write; the size goes with them only if they were its reason."""
        for page in range(start // PAGE, (end + PAGE - 1) // PAGE):
            self.versions.pop(page, None)
        if keep_size and len(self.cache) > len(self.medium):
            self.medium.extend(bytes(len(self.cache) - len(self.medium)))
        if not self.versions:
            self.sizes.clear()

    def drop(self, start: int, end: int) -> None:
        """Give clean whole pages of a range back to the system: they are read from the medium from now on."""
        size = len(self.cache)
        last = (size + PAGE - 1) // PAGE if end >= size else end // PAGE
        for page in range((start + PAGE - 1) // PAGE, last):
            if page not in self.versions:
                self.cache[page * PAGE : min(page * PAGE + PAGE, size)] = self._medium_page(page, size)

    def _medium_page(self, page: int, size: int) -> bytes:
        start = page * PAGE
        end = min(start + PAGE, size)
        return bytes(self.medium[start:end]).ljust(max(end - start, 0), b"\0")

    def read_medium(self, length: int, position: int) -> bytes:
        """What a direct read gives: dirty pages (the kernel writes them first), otherwise the medium."""
        size = len(self.cache)
        if position >= size:
            return b""
        end = min(position + length, size)
        first = position // PAGE
        pages = [
            self._page(page)[: max(min(PAGE, size - page * PAGE), 0)]
            if page in self.versions
            else self._medium_page(page, size)
            for page in range(first, (end + PAGE - 1) // PAGE)
        ]
        return b"".join(pages)[position - first * PAGE : end - first * PAGE]

    def flip(self, position: int, mask: int) -> None:
        """Bit rot: on the medium, and in the cache where it has no newer content."""
        if position >= len(self.medium):
            raise ValueError(f"the medium holds {len(self.medium)} bytes of this file, not {position + 1}")
        self.medium[position] ^= mask
        if position // PAGE not in self.versions and position < len(self.cache):
            self.cache[position] ^= mask


class Directory(Node):
    """A directory, and the two answers to the question which of its names are stable."""

    __slots__ = ("entries", "ordered", "parent", "strict")

    def __init__(self, ino: int, mode: int, parent: "Directory | None") -> None:
        super().__init__(ino, mode)
        self.parent = parent or self
        self.entries: dict[str, File | Directory] = {}
        self.strict: dict[str, File | Directory] = {}
        self.ordered: dict[str, File | Directory] = {}

    def plant(self, name: str, node: "File | Directory") -> None:
        """Give ``node`` a name that is stable from the start."""
        for table in (self.entries, self.strict, self.ordered):
            table[name] = node
        node.strict_at = node.ordered_at = (self, name)
        node.nlink += 1
        if isinstance(node, Directory):
            node.nlink += 1
            self.nlink += 1


class NameChange:
    """A change of names that happens as a whole or not at all: create, unlink, mkdir, rmdir, rename."""

    __slots__ = ("added", "removed", "when", "what")

    def __init__(
        self,
        when: int,
        what: str,
        removed: "tuple[Directory, str, File | Directory] | None",
        added: "tuple[Directory, str, File | Directory] | None",
    ) -> None:
        self.when = when
        self.what = what
        self.removed = removed
        self.added = added

    def concerns(self, node: Node) -> bool:
        """Whether a sync of ``node`` in a journal brings this change to the medium."""
        return any(part is not None and node in (part[0], part[2]) for part in (self.removed, self.added))

    def within(self, directory: Node) -> bool:
        return any(part is not None and part[0] is directory for part in (self.removed, self.added))

    def creates(self, node: Node) -> bool:
        return self.removed is None and self.added is not None and self.added[2] is node

    def apply(self, names: "Callable[[Directory], dict[str, File | Directory]]", places: "Places") -> None:
        """Carry out the change in some set of tables.

        If an earlier change of the same node was lost, the node is not where this one expects it: a rename
        takes it from where it is (never two names), a removal does nothing.
        """
        if self.added is None:
            assert self.removed is not None
            directory, name, node = self.removed
            if names(directory).get(name) is node:
                del names(directory)[name]
                places[node] = None
            return
        directory, name, node = self.added
        old = places[node]
        if old is not None and names(old[0]).get(old[1]) is node:
            del names(old[0])[old[1]]
        replaced = names(directory).get(name)
        if replaced is not None:
            places[replaced] = None
        names(directory)[name] = node
        places[node] = (directory, name)


class Places(Protocol):
    """Where each node stands in a set of tables."""

    def __getitem__(self, node: "File | Directory", /) -> Place | None: ...

    def __setitem__(self, node: "File | Directory", place: Place | None, /) -> None: ...


class _Strict:
    def __getitem__(self, node: "File | Directory") -> Place | None:
        return node.strict_at

    def __setitem__(self, node: "File | Directory", place: Place | None) -> None:
        node.strict_at = place


class _Ordered:
    def __getitem__(self, node: "File | Directory") -> Place | None:
        return node.ordered_at

    def __setitem__(self, node: "File | Directory", place: Place | None) -> None:
        node.ordered_at = place


class _Copies:
    """Copies of nodes, one of each, however many names and changes lead to it."""

    def __init__(self) -> None:
        self._made: dict[File | Directory, File | Directory] = {}

    def directory(self, old: Directory) -> Directory:
        found = self.node(old)
        assert isinstance(found, Directory)
        return found

    def node(self, old: "File | Directory") -> "File | Directory":
        found = self._made.get(old)
        if found is not None:
            return found
        new: File | Directory
        if isinstance(old, File):
            new = self._made[old] = File(old.ino, old.mode)
            new.cache, new.medium = old.cache[:], old.medium[:]
            new.versions = {page: versions[:] for page, versions in old.versions.items()}
            new.sizes = old.sizes[:]
        else:
            new = self._made[old] = Directory(old.ino, old.mode, None)
            new.parent = self.directory(old.parent)
            for name in ("entries", "strict", "ordered"):
                table = {entry: self.node(inner) for entry, inner in getattr(old, name).items()}
                setattr(new, name, table)
        new.nlink = old.nlink
        new.errors, new.errors_told = old.errors, old.errors_told
        new.strict_at = self._place(old.strict_at)
        new.ordered_at = self._place(old.ordered_at)
        return new

    def _place(self, place: Place | None) -> Place | None:
        return place and (self.directory(place[0]), place[1])

    def change(self, old: NameChange) -> NameChange:
        return NameChange(old.when, old.what, self._part(old.removed), self._part(old.added))

    def _part(
        self, part: "tuple[Directory, str, File | Directory] | None"
    ) -> "tuple[Directory, str, File | Directory] | None":
        return part and (self.directory(part[0]), part[1], self.node(part[2]))


class Machine:
    """What all simulated processes share: the files, the time, and the changes of names not yet stable."""

    __slots__ = (
        "aborted",
        "broken",
        "clock_ns",
        "dev",
        "files_made",
        "next_fd",
        "now",
        "off",
        "pending_ordered",
        "pending_strict",
        "root",
        "tick_ns",
    )

    def __init__(self, clock_ns: int, tick_ns: int) -> None:
        self.root = Directory(2, 0o40700, None)
        self.root.nlink = 2
        self.files_made = 10
        self.next_fd = 10_000
        self.now = 0
        self.off = False
        # errno of every further change: a read-only file system, an aborted journal.
        self.broken = 0
        self.aborted = False
        self.dev = 0x5350
        self.clock_ns = clock_ns
        self.tick_ns = tick_ns
        self.pending_strict: list[NameChange] = []
        self.pending_ordered: list[NameChange] = []

    def __deepcopy__(self, memo: dict[int, object]) -> "Machine":
        """The same machine once more, apart from locks: their holders do not run there. A sweep copies
        machines all day long, so this is written out; pages and other ``bytes`` are shared."""
        other = Machine(self.clock_ns, self.tick_ns)
        for name in ("files_made", "next_fd", "now", "off", "broken", "aborted", "dev"):
            setattr(other, name, getattr(self, name))
        copies = _Copies()
        other.root = copies.directory(self.root)
        changes = {change: copies.change(change) for change in self.pending_strict + self.pending_ordered}
        other.pending_strict = [changes[change] for change in self.pending_strict]
        other.pending_ordered = [changes[change] for change in self.pending_ordered]
        return other

    def new_ino(self) -> int:
        self.files_made += 1
        return self.files_made

    def time(self) -> int:
        """The next moment; each change of the disk has one of its own."""
        self.now += 1
        return self.now

    def change_names(
        self,
        what: str,
        removed: "tuple[Directory, str, File | Directory] | None" = None,
        added: "tuple[Directory, str, File | Directory] | None" = None,
    ) -> None:
        change = NameChange(self.time(), what, removed, added)
        self.pending_strict.append(change)
        self.pending_ordered.append(change)

    def sync_file(self, node: File, data_only: bool) -> None:
        grown = bool(node.sizes)
        node.sync()
        # A new size is a change of the journal, so everything before it is committed with it. Otherwise
        # fdatasync forces no more than the inode's own creation, fsync also what was last done to its name.
        changes = self.pending_ordered
        if grown:
            self._commit(len(changes))
        elif data_only:
            self._commit(_last(i for i, change in enumerate(changes) if change.creates(node)))
        else:
            self._commit(_last(i for i, change in enumerate(changes) if change.concerns(node)))

    def sync_directory(self, node: Directory) -> None:
        rest = []
        for change in self.pending_strict:
            if change.within(node):
                change.apply(_strict_names, _Strict())
            else:
                rest.append(change)
        self.pending_strict = rest
        self._commit(_last(i for i, change in enumerate(self.pending_ordered) if change.concerns(node)))

    def sync_all(self) -> None:
        """As ``sync(1)``: all of it is stable."""
        for change in self.pending_strict:
            change.apply(_strict_names, _Strict())
        self.pending_strict = []
        self._commit(len(self.pending_ordered))
        for node in self.known():
            if isinstance(node, File):
                node.sync()

    def known(self) -> "list[File | Directory]":
        """Every file and directory that has a name, or may have one after a power cut; in a fixed order."""
        found: dict[int, File | Directory] = {}

        def visit(node: "File | Directory") -> None:
            if node.ino in found:
                return
            found[node.ino] = node
            if isinstance(node, Directory):
                for table in (node.entries, node.strict, node.ordered):
                    for inner in table.values():
                        visit(inner)

        visit(self.root)
        for changes in (self.pending_strict, self.pending_ordered):
            for change in changes:
                for part in (change.removed, change.added):
                    if part is not None:
                        visit(part[2])
        return [found[ino] for ino in sorted(found)]

    def _commit(self, count: int) -> None:
        for change in self.pending_ordered[:count]:
            change.apply(_ordered_names, _Ordered())
        del self.pending_ordered[:count]


def _strict_names(directory: Directory) -> "dict[str, File | Directory]":
    return directory.strict


def _ordered_names(directory: Directory) -> "dict[str, File | Directory]":
    return directory.ordered


def _last(places: Iterable[int]) -> int:
    return max(places, default=-1) + 1
