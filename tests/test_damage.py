"""Damage anywhere: every bit of a small log; flips, zeroed blocks, cuts and shuffled files in a larger one.

Whatever was done, three things hold. Nothing but an error of PSPF is raised, and nothing hangs. What is read
is what was written, in its place. And what is missing is covered by errors that name it, with exit code 65,
unless the file was derived and is made again.
"""

import os
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pspf
from pspf import errors
from pspf.store.store import Store
from pspf.store.verify import DAMAGE
from tests.conftest import Pspf
from tests.support_damage import (
    SMALL_SEGMENTS,
    TOPIC,
    base,
    batches_of,
    filled,
    flip,
    overwrite,
    partition,
    segments,
    swap,
    tear,
    value,
)
from tests.support_figures import Figure

if TYPE_CHECKING:
    from tests.soak import Slice, Work

SMALL, LARGE = 3, 700
SMALL_FILES = ("commit", "lock", "start")
RANDOM_FAST, RANDOM_FAULTS = 30, 500


class Outcome:
    """What a store gave after something was done to it."""

    def __init__(self) -> None:
        self.records: dict[int, bytes | None] = {}
        self.gone: set[int] = set()
        self.error: errors.Error | None = None
        self.damage: list[str] = []
        self.notes: list[str] = []


def look(path: Path, count: int, read_only: bool = False) -> Outcome:
    """Open, read with skipping, and verify; anything but an error of PSPF escapes."""
    out = Outcome()
    try:
        with pspf.open(str(path), create=False, read_only=read_only) as store:
            try:
                for finding in store.verify().findings:
                    (out.damage if finding.severity == DAMAGE else out.notes).append(finding.kind)
            except errors.Error as error:
                out.error = error
            try:
                read(store, out, count)
            except errors.Error as error:
                out.error = error
            list(store.inspect(TOPIC))
            store.usage()
            store.describe(TOPIC)
    except errors.Error as error:
        out.error = error
    return out


def read(store: Store, out: Outcome, count: int) -> None:
    reader = store.reader(TOPIC, 0)
    reader.seek(0)
    try:
        for _ in range(10 * count + 100):  # more steps than there are batches: it goes round in circles
            try:
                found = reader.read()
            except errors.Damaged as error:
                if error.resume_offset < 0:
                    raise
                assert error.resume_offset > error.offset, error
                assert error.exit_code == 65 and error.path
                out.gone.update(range(error.offset, error.resume_offset))
                reader.seek(error.resume_offset)
                continue
            if not found:
                # Everything below the end was given, or named.
                out.gone.update(range(reader.start()))
                missing = set(range(reader.end())) - out.records.keys() - out.gone
                assert not missing, f"silently missing: {sorted(missing)[:5]}"
                return
            for batch in found:
                columns = batch.columns()
                for offset, got in zip(columns.offsets(), columns.values(), strict=True):
                    assert got == value(offset), f"a wrong record at offset {offset}"
                    assert offset not in out.records, f"offset {offset} twice"
                    out.records[offset] = got
        raise AssertionError("reading does not end")
    finally:
        reader.close()


def check(path: Path, count: int, expected: set[int], what: str) -> Outcome:
    """``expected`` are the offsets that nothing was done to: they are read back, and so is the next one."""
    out = look(path, count)
    said = f"{what}: {out.error!r} {out.damage} {out.notes}"
    if out.error is not None:
        assert out.error.exit_code == 65, said
        changed_by_hand = "--from" in out.error.hint
        if changed_by_hand:
            with pspf.open(str(path), create=False) as store:
                store.alter_topic_from(TOPIC, str(path / "topics" / TOPIC / "topic.toml"))
            out = look(path, count)
            assert out.error is None, said
    assert expected <= out.records.keys(), (
        f"{said}: not readable: {sorted(expected - out.records.keys())[:5]}"
    )
    if out.records.keys() != set(range(count)):
        assert out.damage, f"{said}: records are missing, and verify says that all is well"
    goes_on(path, count, out, said)
    return out


def goes_on(path: Path, count: int, before: Outcome, said: str) -> None:
    """Appends go on behind everything that was ever acknowledged, or are refused by name."""
    try:
        with pspf.open(str(path), create=False) as store:
            placed = store.append(TOPIC, value(count))
    except errors.Error as error:
        assert error.exit_code == 65, said
        assert "repair" in error.hint + str(error) or before.error is not None, f"{said}: {error!r}"
        with pspf.open(str(path), create=False) as store:
            store.repair(TOPIC, 0)
            placed = store.append(TOPIC, value(count))
            if placed.first < count:
                # The last record's only proof was `commit`: it is in quarantine.
                assert (path / "quarantine").exists(), said
                return
    if placed.first > count and "duplicate" in said and "commit" in said:
        # A stray segment named above the end, and nothing left that knows the end: offsets are skipped, and
        # none is given twice.
        return
    if placed.first < count and "commit" in said:
        # Two things at once: `commit`, and the end of the log. Nothing is left that knew of these records.
        assert before.damage and placed.first > max(before.records, default=-1), said
        return
    assert placed.first == count, said
    after = look(path, count + 1)
    assert after.error is None, said
    assert before.records.keys() | {count} <= after.records.keys(), said


# -- every bit of a small log


def files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "reserve")


def sweep(source: Path, step: int, first: int, write_step: int) -> int:
    """Flip every ``step``-th bit in turn and read without the right to write; for each ``write_step``-th of
    them also with it, and append. How many bits that were."""
    filled(source, SMALL)
    assert [p.name for p in files(source)] == [
        "store.toml",
        "00000000000000000000.index",
        "00000000000000000000.log",
        "commit",
        "lock",
        "start",
        "topic.toml",
    ]
    everything = [(file, bit) for file in files(source) for bit in range(file.stat().st_size * 8)]
    for number, (file, bit) in enumerate(everything[first::step]):
        what = f"bit {bit} of {file.relative_to(source)}"
        position = bit // 8
        whole = file.read_bytes()
        overwrite(file, position, bytes([whole[position] ^ 1 << bit % 8]))
        expected = set(range(SMALL)) - touched(whole, position, file)
        out = look(source, SMALL, read_only=True)
        if out.error is None:
            # Without the newest slot of `commit`, who may not write goes to the end that the older one names.
            published = expected - {SMALL - 1} if file.name == "commit" else expected
            assert published <= out.records.keys(), what
        else:
            assert out.error.exit_code == 65, what
            assert "--from" in out.error.hint, what  # settings: taken in on request only
        assert out.damage or out.notes, f"{what}: nobody noticed"
        if number % write_step == 0:
            copy = source.with_name("copy")
            shutil.copytree(source, copy)
            check(copy, SMALL, expected, what)
            shutil.rmtree(copy)
        overwrite(file, position, whole[position : position + 1])
    assert look(source, SMALL, read_only=True).notes == []
    return len(everything[first::step])


def touched(whole: bytes, position: int, file: Path) -> set[int]:
    """The record that a byte of a file belongs to."""
    if file.suffix != ".log":
        return set()
    return {b.first for b in batches_of(whole) if b.position <= position < b.position + b.size}


def test_every_seventh_bit_of_a_closed_log(store_dir: Path) -> None:
    sweep(store_dir, 7, 0, 97)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(4))
def test_every_bit_of_a_closed_log(store_dir: Path, part: int, figure: Figure) -> None:
    figure("every bit of a closed log", sweep(store_dir, 4, part, 13))


# -- a larger log


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five segments; it is copied for each round, and only its bytes matter."""
    path = tmp_path_factory.mktemp("larger") / "store"
    filled(path, LARGE, SMALL_SEGMENTS)
    assert len(segments(path)) >= 4
    return path


def rounds(count: int) -> Iterator[int]:
    seed = int(os.environ.get("DAMAGE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"DAMAGE_SEED={seed}")
    yield from range(seed, seed + count)


def do_damage(path: Path, dice: random.Random) -> str:
    """One thing that happens to files."""
    found = [s for s in segments(path) if s.stat().st_size]
    target = dice.choice(found)
    size = target.stat().st_size
    kind = dice.choice(
        ["flip", "flips", "zeros 512", "zeros 4096", "cut", "remove", "swap", "duplicate", "small file"]
    )
    if kind == "flip":
        flip(target, dice.randrange(size))
    elif kind == "flips":
        for _ in range(dice.randrange(2, 20)):
            flip(target, dice.randrange(size))
    elif kind.startswith("zeros"):
        block = int(kind.split()[1])
        start = dice.choice([dice.randrange(size), dice.randrange(size) // block * block])
        overwrite(target, start, bytes(min(block, size - start)))
    elif kind == "cut":
        tear(target, dice.randrange(size))
    elif kind == "remove":
        target.unlink()
    elif kind == "swap":
        other = dice.choice([s for s in found if s != target] or [target])
        swap(target, other)
        return f"{kind} {target.name} {other.name}"
    elif kind == "duplicate":
        name = f"{dice.choice([n for n in range(LARGE + 50) if n != base(target)]):020d}.log"
        shutil.copyfile(target, target.with_name(name))
        return f"{kind} {target.name} as {name}"
    else:
        file = dice.choice([p for p in map(partition(path).joinpath, SMALL_FILES) if p.exists()])
        how = dice.choice(["flip", "unlink", "empty"])
        if how == "flip" and file.stat().st_size:
            flip(file, dice.randrange(64))
        elif how == "unlink":
            file.unlink()
        else:
            file.write_bytes(b"")
        return f"{kind} {file.name}"
    return f"{kind} {target.name} of {size} bytes"


def damage_at_random(source: Path, scratch: Path, seeds: Iterable[int]) -> None:
    whole = {s.name: s.read_bytes() for s in segments(source)}
    for seed in seeds:
        dice = random.Random(seed)
        copy = scratch / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        done = [do_damage(copy, dice) for _ in range(dice.choice([1, 1, 1, 2, 3]))]
        what = f"DAMAGE_SEED={seed} {done}"
        check(copy, LARGE, untouched(whole, copy), what)


def untouched(whole: dict[str, bytes], path: Path) -> set[int]:
    """Offsets of the batches whose bytes are still where they were, in a segment that is what it was."""
    kept: set[int] = set()
    for name, data in whole.items():
        segment = partition(path) / name
        if not segment.exists():
            continue
        now = segment.read_bytes()
        for batch in batches_of(data):
            end = batch.position + batch.size
            if now[batch.position : end] == data[batch.position : end]:
                kept.add(batch.first)
    # A stray file between two segments hides what follows its name in the segment before it: it is read again
    # when the stray is gone, and named until then.
    strays = sorted({base(s) for s in segments(path)} - {int(n[:20]) for n in whole})
    for stray in strays:
        behind = min((int(n[:20]) for n in whole if int(n[:20]) > stray), default=LARGE)
        kept -= set(range(stray, behind))
    return kept


def test_random_damage_to_a_log_of_segments(larger: Path, scratch_dir: Path) -> None:
    damage_at_random(larger, scratch_dir, rounds(RANDOM_FAST))


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(2))
def test_random_damage_to_a_log_of_segments_in_the_full_figure(
    larger: Path, scratch_dir: Path, part: int, figure: Figure
) -> None:
    damage_at_random(larger, scratch_dir, rounds(RANDOM_FAULTS // 2))
    figure("random damage to a larger log", RANDOM_FAULTS // 2)


def soak_damage(part: "Slice") -> int:
    source = part.scratch / "larger"
    filled(source, LARGE, SMALL_SEGMENTS)
    damage_at_random(source, part.scratch, range(part.seed * 250, part.seed * 250 + 250))
    return 250


SOAK: "dict[str, Work]" = {"random damage to a larger log": soak_damage}


# -- by command


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_fifty_bits_by_command(store_dir: Path, pspf: Pspf, figure: Figure) -> None:
    filled(store_dir, SMALL)
    everything = [(file, bit) for file in files(store_dir) for bit in range(file.stat().st_size * 8)]
    expected = {value(n) for n in range(SMALL)}
    for seed in rounds(50):
        file, bit = random.Random(seed).choice(everything)
        what = f"DAMAGE_SEED={seed} bit {bit} of {file.relative_to(store_dir)}"
        copy = store_dir.with_name("copy")
        shutil.copytree(store_dir, copy)
        whole = file.read_bytes()
        damaged = copy / file.relative_to(store_dir)
        overwrite(damaged, bit // 8, bytes([whole[bit // 8] ^ 1 << bit % 8]))
        verified = pspf("-s", copy, "verify", "--json")
        read = pspf("-s", copy, "cat", "--skip-damaged", TOPIC)
        assert verified.returncode in (0, 65) and read.returncode in (0, 65), what
        assert b"Traceback" not in verified.stderr + read.stderr, what
        got = set(read.stdout.splitlines())
        assert got <= expected, what
        if read.returncode == 0:
            assert got == expected, what
        else:
            assert verified.returncode == 65 and file.name.encode() in read.stderr + verified.stdout, what
        shutil.rmtree(copy)
    figure("bits of a closed log, by command", 50)
