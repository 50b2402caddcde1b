"""Which disks a power cut may leave: the legal set, and how states are taken from it.

Whoever doubts a violation that was found here disputes this list, so here it is in full.

**Both models**

- What was synced is there: the content and size of a file at its last successful fsync or fdatasync.
- A sector (512 bytes) is old or new as a whole. Overwriting bytes by the same bytes keeps them.
- A sector holds what the page cache held of it at *some* moment since the last sync: with three unsynced
  writes to one sector, any of the four contents. Later moments in one sector and earlier ones in the next
  are legal: writes are reordered and torn, at sectors and at pages (4 KiB).
- What was never written reads as zeros, never as bytes of other files.
- A change of names (create, unlink, mkdir, rmdir, rename) happens as a whole or not at all: a rename leaves
  the old name or the new one, never both or neither.
- A directory that is lost takes everything with it, however well synced.

**strict**: no more than POSIX promises.

- A file's size is any that it had since its last sync, or a page boundary on the way. It is independent of
  the data: a size without data (zeros), data without a size (cut).
- An earlier cut of the file may be undone for some sectors and not for others.
- Each change of names since the last fsync of *its directory* is there or not, independent of all others and
  of order; an fsync of the file does not help. A name may be there without data (an empty file).
- A rename between directories is stable once either of them was synced.

**ordered**: ext4 with ``data=ordered``, xfs and the like: one journal, in order. A subset of ``strict``.

- The changes of names that happened are a prefix of all that were made, anywhere. An fsync of a directory,
  or of a file that was created, renamed or has grown, makes everything before it stable as well.
- A new page inside the size holds what was written to it when the size was, or something newer: no size
  without data, except within a page that was there before. A page that existed is overwritten in any order.

**How states are taken**: if the set is small, all of it. Otherwise first the corners (nothing survived,
everything, names without data, data without names, exactly what was written up to each moment), then random
ones in several styles: whole writes lost, pages lost, sectors lost, each file stopped at a moment of its
own, zeros for the rest. Duplicates are left out by a digest of the whole tree. The same seed gives the same
states, and each state's ``story`` says in one line how it differs from the last sync.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import product
from random import Random
from typing import TypeVar

from pspf.testing.medium import PAGE, SECTOR, Directory, File, Machine, NameChange, Place
from pspf.testing.process import Process

MODELS = ("strict", "ordered")
NEVER = -1
_SECTORS = PAGE // SECTOR

P = TypeVar("P", bound=Process)
When = Callable[[File, int, int], int]
"""(file, page, sector in the page) -> up to which moment writes to that sector reached the medium."""


class Size:
    """A size that a file may have, the moment when it came, and the floor of each new page's content."""

    __slots__ = ("bytes", "floors", "when")

    def __init__(self, size: int, when: int, floors: dict[int, int]) -> None:
        self.bytes = size
        self.when = when
        self.floors = floors


def crash_states(disk: P, seed: int, limit: int, model: str) -> Iterator[P]:
    """See :meth:`pspf.testing.SimDisk.crash_states`; each state is made when it is asked for."""
    if model not in MODELS:
        raise ValueError(f"the model is one of {', '.join(MODELS)}, not {model!r}")
    seen: set[bytes] = set()
    for story, changes, image in _candidates(disk.machine, seed, limit, model):
        machine = _rebuild(disk.machine, model, changes, image)
        digest = digest_of(machine.root)
        if digest in seen:
            continue
        seen.add(digest)
        state = type(disk)(machine=machine)
        state.umask_mode = disk.umask_mode
        state.story = f"{model}, seed {seed}, state {len(seen)}: {story}"
        yield state
        if len(seen) >= limit:
            return


Image = Callable[[File], bytes]
Candidate = tuple[str, list[NameChange], Image]


def _candidates(machine: Machine, seed: int, limit: int, model: str) -> Iterator[Candidate]:
    changes = machine.pending_strict if model == "strict" else machine.pending_ordered
    files = [node for node in machine.known() if isinstance(node, File) and node.dirty]
    total = (1 << min(len(changes), 40)) if model == "strict" else len(changes) + 1
    for file in files:
        if total > 2 * limit:
            break
        total *= _count_images(file, model, 2 * limit)
    if total <= 2 * limit:
        yield from _every_candidate(changes, files, model)
    else:
        yield from _corners(machine, changes, model)
        yield from _samples(changes, files, Random(seed), 10 * limit + 100, model)


# -- one file


def sizes_of(file: File, model: str) -> list[Size]:
    """Every size that the file may have, the one on the medium first, the newest last."""
    found = [Size(len(file.medium), NEVER, {})]
    size = len(file.medium)
    floors: dict[int, int] = {}
    for when, new in file.sizes:
        if new > size:
            first = (size + PAGE - 1) // PAGE
            for page in range(first, (new + PAGE - 1) // PAGE):
                floors[page] = when
                boundary = (page + 1) * PAGE
                if boundary < new and page in (first, first + 1, (new - 1) // PAGE - 1):
                    found.append(Size(boundary, when, dict(floors)))
        else:
            floors = {page: moment for page, moment in floors.items() if page * PAGE < new}
            if new % PAGE:  # the rest of the last page is written as zeros before the cut is committed
                floors[new // PAGE] = when
        size = new
        found.append(Size(size, when, dict(floors)))
    if model == "strict":
        for each in found:
            each.floors = {}
    return found


def image_of(file: File, size: Size, when: When) -> bytes:
    """The file's content if its size is that, and each sector stopped at ``when``; floors hold."""
    out = bytearray(file.medium[: size.bytes])
    out.extend(bytes(size.bytes - len(out)))
    for page, versions in file.versions.items():
        start = page * PAGE
        if start >= size.bytes:
            continue
        floor = size.floors.get(page, NEVER)
        for sector in range(_SECTORS):
            at = start + sector * SECTOR
            if at >= size.bytes:
                break
            moment = max(when(file, page, sector), floor)
            newest = None
            for written, content in versions:
                if written > moment:
                    break
                newest = content
            if newest is not None:
                end = min(at + SECTOR, size.bytes)
                out[at:end] = newest[sector * SECTOR : sector * SECTOR + end - at]
    return bytes(out)


def _sector_choices(file: File, size: Size) -> list[tuple[int, int, list[int]]]:
    """(page, sector, moments with different contents) for each sector that has more than one."""
    found = []
    for page, versions in sorted(file.versions.items()):
        for sector in range(_SECTORS):
            at = page * PAGE + sector * SECTOR
            if at >= size.bytes:
                break
            floor = size.floors.get(page, NEVER)
            moments = {bytes(file.medium[at : at + SECTOR]).ljust(SECTOR, b"\0"): NEVER}
            for written, content in versions:
                data = content[sector * SECTOR : sector * SECTOR + SECTOR]
                if written <= floor:
                    moments.clear()
                moments.setdefault(data, written)
            if len(moments) > 1:
                found.append((page, sector, sorted(moments.values())))
    return found


def _count_images(file: File, model: str, enough: int) -> int:
    count = 0
    for size in sizes_of(file, model):
        ways = 1
        for _, _, moments in _sector_choices(file, size):
            ways *= len(moments)
            if ways > enough:
                return ways
        count += ways
    return count


def _every_image(file: File, model: str) -> Iterator[bytes]:
    for size in sizes_of(file, model):
        choices = _sector_choices(file, size)
        for moments in product(*(choice[2] for choice in choices)):
            chosen = {choice[:2]: moment for choice, moment in zip(choices, moments, strict=True)}
            # The other sectors have one content only, whenever that came.
            yield image_of(file, size, lambda _, page, sector, c=chosen: c.get((page, sector), 1 << 62))  # type: ignore[misc]


# -- all of it


def _every_candidate(changes: list[NameChange], files: list[File], model: str) -> Iterator[Candidate]:
    if model == "strict":
        kept = [[c for c, keep in zip(changes, bits, strict=True) if keep] for bits in _bits(len(changes))]
    else:
        kept = [changes[:n] for n in range(len(changes) + 1)]
    for names in kept:
        for contents in product(*(_every_image(file, model) for file in files)):
            images = {file.ino: content for file, content in zip(files, contents, strict=True)}
            story = _names_story(changes, names) + "".join(
                f"; file {ino}: {len(content)} bytes" for ino, content in images.items()
            )
            yield story, names, lambda file, i=images: i[file.ino]  # type: ignore[misc]


def _bits(count: int) -> Iterator[tuple[bool, ...]]:
    return product((False, True), repeat=count)


def _corners(machine: Machine, changes: list[NameChange], model: str) -> Iterator[Candidate]:
    def nothing(file: File) -> bytes:
        return image_of(file, sizes_of(file, model)[0], lambda *_: NEVER)

    def everything(file: File) -> bytes:
        return image_of(file, sizes_of(file, model)[-1], lambda *_: machine.now)

    def size_only(file: File) -> bytes:
        return image_of(file, sizes_of(file, model)[-1], lambda *_: NEVER)

    yield "nothing unsynced survived", [], nothing
    yield "everything survived", changes, everything
    yield "names survived, data did not", changes, nothing
    yield "names and sizes survived, data did not", changes, size_only
    yield "data survived, names did not", [], everything
    moments = {change.when for change in changes}
    for file in machine.known():
        if isinstance(file, File):
            moments.update(when for when, _ in file.sizes)
            moments.update(when for versions in file.versions.values() for when, _ in versions)
    for moment in sorted(moments, reverse=True):

        def then(file: File, moment: int = moment) -> bytes:
            size = [size for size in sizes_of(file, model) if size.when <= moment][-1]
            return image_of(file, size, lambda *_: moment)

        yield f"everything up to moment {moment}", [c for c in changes if c.when <= moment], then


def _samples(
    changes: list[NameChange], files: list[File], rng: Random, attempts: int, model: str
) -> Iterator[Candidate]:
    for _ in range(attempts):
        names = _some_names(changes, rng, model)
        style = rng.choice(("writes", "pages", "sectors", "sectors", "moment", "zeros", "mixed"))
        images = {}
        told = []
        for file in files:
            own = rng.choice(("writes", "pages", "sectors", "moment", "zeros")) if style == "mixed" else style
            size, when = _some_loss(file, own, rng, model)
            images[file.ino] = image_of(file, size, when)
            told.append(f"file {file.ino} {own}: {len(file.medium)}->{size.bytes} bytes")
        story = "; ".join([_names_story(changes, names), *told])
        yield story, names, lambda file, i=images: i[file.ino]  # type: ignore[misc]


def _some_names(changes: list[NameChange], rng: Random, model: str) -> list[NameChange]:
    if model == "ordered":
        return changes[: rng.choice((len(changes), rng.randint(0, len(changes))))]
    kind = rng.randrange(4)
    if kind == 0:
        return changes
    if kind == 1:
        return changes[: rng.randint(0, len(changes))]
    share = rng.choice((0.2, 0.5, 0.8))
    return [change for change in changes if rng.random() < share]


def _some_loss(file: File, style: str, rng: Random, model: str) -> tuple[Size, When]:
    sizes = sizes_of(file, model)
    writes = sorted({when for versions in file.versions.values() for when, _ in versions})
    moments = [NEVER, *writes]
    size = rng.choice((sizes[-1], rng.choice(sizes)))
    if style == "moment":
        moment = rng.choice(moments)
        early = [each for each in sizes if each.when <= moment]
        return rng.choice((size, early[-1])), lambda *_: moment
    if style == "zeros":
        # The size is there, the data up to some page; behind that, what was there before, mostly zeros.
        last = rng.choice(sorted(file.versions)) if file.versions else 0
        return sizes[-1], lambda _, page, __: writes[-1] if page < last else NEVER
    if style == "writes":
        share = rng.choice((0.2, 0.5, 0.8))
        kept = {when for when in writes if rng.random() < share}
        newest = {
            page: max((when for when, _ in versions if when in kept), default=NEVER)
            for page, versions in file.versions.items()
        }
        return size, lambda _, page, __: newest[page]
    chosen: dict[tuple[int, int], int] = {}
    share = rng.choice((0.1, 0.5, 0.9))
    for page, versions in sorted(file.versions.items()):
        own = [NEVER, *(when for when, _ in versions)]
        moment = own[-1] if rng.random() < share else rng.choice(own)
        for sector in range(_SECTORS):
            if style == "sectors":
                moment = own[-1] if rng.random() < share else rng.choice(own)
            chosen[page, sector] = moment
    return size, lambda _, page, sector: chosen[page, sector]


def _names_story(changes: list[NameChange], kept: list[NameChange]) -> str:
    lost = [change.what for change in changes if change not in kept]
    if not changes:
        return "no names pending"
    return f"lost {', '.join(lost)}" if lost else "all names survived"


def _rebuild(old: Machine, model: str, changes: list[NameChange], image: Image) -> Machine:
    """A machine that has been switched on again: the cache is what the medium holds, everything is stable."""
    new = Machine(old.clock_ns, old.tick_ns)
    new.files_made = old.files_made
    new.next_fd = old.next_fd
    new.now = old.now
    tables: dict[int, dict[str, File | Directory]] = {}

    def names_of(directory: Directory) -> dict[str, File | Directory]:
        if directory.ino not in tables:
            tables[directory.ino] = dict(directory.strict if model == "strict" else directory.ordered)
        return tables[directory.ino]

    places = _Places(model)
    for change in changes:
        change.apply(names_of, places)

    def copy(source: Directory, target: Directory) -> None:
        for name, node in names_of(source).items():
            if isinstance(node, Directory):
                inner = Directory(node.ino, node.mode, target)
                target.plant(name, inner)
                copy(node, inner)
            else:
                content = image(node) if node.dirty else bytes(node.medium)
                target.plant(name, File(node.ino, node.mode, content))

    copy(old.root, new.root)
    return new


class _Places:
    """Where nodes stand in the tables of one state, above those of the machine as it was."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._moved: dict[int, Place | None] = {}

    def __getitem__(self, node: "File | Directory") -> Place | None:
        if node.ino in self._moved:
            return self._moved[node.ino]
        return node.strict_at if self._model == "strict" else node.ordered_at

    def __setitem__(self, node: "File | Directory", place: Place | None) -> None:
        self._moved[node.ino] = place


def digest_of(root: Directory) -> bytes:
    """A digest of every path and content."""
    total = blake2b(digest_size=16)

    def visit(directory: Directory) -> None:
        for name in sorted(directory.entries):
            node = directory.entries[name]
            total.update(name.encode() + b"\0")
            if isinstance(node, File):
                total.update(b"%d\0" % len(node.cache))
                total.update(node.cache)
            else:
                total.update(b"/\0")
                visit(node)
                total.update(b"..\0")

    visit(root)
    return total.digest()
