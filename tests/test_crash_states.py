"""The engine on a simulated disk: ended behind every call, without power in every legal way, and recovered.

Each scenario is swept twice: briefly in the fast suite, and with the figures of `make faults`. A violation
says which scenario, seed, stop and crash state it was; the same call of ``sweep`` shows it again. Behind the
sweeps stand the rows of the crash table, each as a test of its name.
"""

import errno
import os
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from pspf import errors
from pspf.format.encode import encode_records
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing import Killed, PowerCut, SimDisk
from pspf.testing.faults import Stopped
from pspf.testing.ledger import Ledger, read_all
from pspf.testing.scenarios import (
    SCENARIOS,
    STORE,
    Appends,
    FirstStoreDeepDown,
    FirstTopic,
    InCache,
    PoisonedEmpty,
    Roll,
    SingleAppends,
)
from pspf.testing.scenarios_together import TOGETHER, Interleaved
from pspf.testing.sweep import Figures, sweep
from tests.support_figures import MET, STATES, Figure

if TYPE_CHECKING:
    from tests.soak import Slice, Work

SEED = int(os.environ.get("PSPF_TEST_SEED", "20"))
FIGURE = 250
ORDERS = 25


def same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids from a seed, so that a violation can be seen again; and small files where size does not matter."""
    rng = Random(0)
    monkeypatch.setattr(os, "urandom", rng.randbytes)
    for module in ("pspf.log.create", "pspf.store.lifecycle"):
        monkeypatch.setattr(f"{module}.urandom", rng.randbytes)
    monkeypatch.setattr("pspf.store.init.RESERVE_BYTES", 4096)
    monkeypatch.setattr("pspf.store.many.BATCH_BYTES", 16 << 10)
    # The thread that syncs when nobody appends any more would come at any time, or never.
    monkeypatch.setattr("pspf.log.timer.start_timer", lambda writer: None)


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_acknowledged_is_lost(name: str) -> None:
    figures = sweep(name, SCENARIOS[name](), seed=1, states=8, stops=4, in_recovery=1)
    assert not figures.violations, "\n\n".join(figures.violations)


@pytest.mark.parametrize("how", [Killed, PowerCut])
@pytest.mark.parametrize("name", TOGETHER)
def test_nothing_acknowledged_is_lost_by_writers_that_meet(name: str, how: type[Stopped]) -> None:
    figures = sweep(name, TOGETHER[name](1), seed=1, states=8, stops=4, in_recovery=1, how=how)
    assert not figures.violations, "\n\n".join(figures.violations)


@pytest.mark.faults
@pytest.mark.parametrize("name", SCENARIOS)
def test_figures(name: str, figure: Figure) -> None:
    total = Figures(name, SEED)
    # Where one pass finds fewer ends (an aborted journal lets nothing reach the disk), another takes others.
    for seed in range(SEED, SEED + 4):
        total.add(sweep(name, SCENARIOS[name](), seed=seed, states=FIGURE, in_recovery=2))
        if total.violations or total.ends >= FIGURE:
            break
    print(Figures.head(), total.row(), sep="\n")
    assert not total.violations, "\n\n".join(total.violations)
    figure(STATES + name, total.ends)


def many_orders(name: str, how: type[Stopped], seed: int, orders: int) -> Figures:
    """The order of calls is what matters where processes meet: many orders, some stops and states of each."""
    told = f"{name}, {'one killed' if how is Killed else 'power cut'}"
    total = Figures(told, seed)
    for order in range(seed, seed + orders):
        total.add(sweep(told, TOGETHER[name](order), seed=order, states=10, stops=4, in_recovery=1, how=how))
    print(Figures.head(), total.row(), sep="\n")
    assert not total.violations, "\n\n".join(total.violations)
    return total


@pytest.mark.faults
@pytest.mark.parametrize("how", [Killed, PowerCut])
@pytest.mark.parametrize("name", TOGETHER)
def test_figures_of_writers_that_meet(name: str, how: type[Stopped], figure: Figure) -> None:
    figure(MET + name, many_orders(name, how, SEED, ORDERS).ends)


def soak_one(name: str, part: "Slice") -> int:
    with pytest.MonkeyPatch.context() as patches:
        same_every_time(patches)
        figures = sweep(name, SCENARIOS[name](), seed=part.seed, states=FIGURE, in_recovery=2)
    assert not figures.violations, "\n\n".join(figures.violations)
    return figures.ends


def soak_orders(name: str, part: "Slice") -> int:
    with pytest.MonkeyPatch.context() as patches:
        same_every_time(patches)
        how = (Killed, PowerCut)[part.number % 2]
        return many_orders(name, how, part.seed * ORDERS % (1 << 40), ORDERS).ends


SOAK: "dict[str, Work]" = {
    **{STATES + name: partial(soak_one, name) for name in SCENARIOS},
    **{MET + name: partial(soak_orders, name) for name in TOGETHER},
}


# -- every call fails once

CALLS = [
    ("open", errno.EMFILE), ("open", errno.EIO), ("open_dir", errno.EMFILE), ("pread", errno.EIO),
    ("listdir", errno.EIO), ("stat_name", errno.EIO), ("size", errno.EIO), ("read_stable", errno.EIO),
    ("pwrite", errno.ENOSPC), ("pwrite", errno.EDQUOT), ("pwrite", errno.EIO), ("pwritev", errno.ENOSPC),
    ("truncate", errno.EIO), ("fdatasync", errno.EIO), ("fsync", errno.EIO), ("fsync", errno.ENOSPC),
    ("rename", errno.ENOSPC), ("mkdir", errno.ENOSPC), ("unlink", errno.EIO), ("lock", errno.ENOLCK),
]  # fmt: skip
LIES = {"fdatasync": ["clean"], "fsync": ["clean"], "pwrite": ["writeback"], "pwritev": ["writeback"]}


def a_roll() -> tuple[Appends, SimDisk]:
    scenario = Roll()
    return scenario, scenario.prepare()


def nothing() -> tuple[Appends, SimDisk]:
    scenario = FirstStoreDeepDown()
    return scenario, scenario.prepare()


class OnePartition(FirstTopic):
    partitions = 1


def leftovers() -> tuple[Appends, SimDisk]:
    scenario = OnePartition()
    return scenario, scenario.prepare()


def an_end_to_adopt() -> tuple[Appends, SimDisk]:
    scenario = SingleAppends()
    disk = scenario.prepare()
    ended(disk, scenario.ledger, "pwrite", "lock", size=3000)
    return scenario, disk.process()


def a_torn_end() -> tuple[Appends, SimDisk]:
    scenario = SingleAppends()
    disk = scenario.prepare()
    ended(disk, scenario.ledger, "pwrite", ".log", size=3000)
    for state in disk.crash_states(3, 100):
        if f"{STORE}/quarantine" in recovered(state.copy()).tree():
            return scenario, state
    raise AssertionError("no state with a torn end")


def a_poisoned_partition() -> tuple[Appends, SimDisk]:
    scenario = SingleAppends()
    disk = scenario.prepare()
    disk.fail("fdatasync", lies="clean")
    with open_store(STORE, disk=disk) as store, pytest.raises(errors.Poisoned):
        scenario.ledger.append(store)
    return scenario, disk


SITUATIONS = [a_roll, nothing, leftovers, an_end_to_adopt, a_torn_end, a_poisoned_partition]


def failing(situation: Callable[[], tuple[Appends, SimDisk]], call: str, index: int, **how: Any) -> bool:
    """Appends while one call fails, then more without: whether the call came so far.

    Each error is one of PSPF's own, and says the truth about the records; the log goes on behind it.
    """
    scenario, disk = situation()
    fault = disk.fail(call, index, **how)
    store: Store | None = None
    for _ in range(6):
        try:
            store = store or open_store(scenario.path, disk=disk)
            scenario.ledger.append(store, size=20_000)
        except errors.Error:
            disk.heal()
    try:
        if store is not None:
            store.close()
    except errors.Error:
        disk.heal()
    disk.heal()
    if fault.hits:
        deepcopy(scenario).recover(disk.copy(), False)
        for state in disk.crash_states(index, 3):
            deepcopy(scenario).recover(state, True)
    return fault.hits > 0


def failures(call: str, error: int, step: int) -> int:
    """Let the call fail at each place and in each way; how many that were."""
    ways: list[dict[str, Any]] = [{}]
    if call.startswith("pwrite"):
        ways.append({"short": 5_000})
    if error == errno.EIO:
        ways += [{"lies": lies, "keep_size": size} for lies in LIES.get(call, ()) for size in (False, True)]
    places = 0
    for situation in SITUATIONS:
        for way in ways:
            index = 0
            while failing(situation, call, index, error=error, **way):
                index += step
                places += 1
    return places


@pytest.mark.parametrize("call, error", CALLS, ids=lambda value: errno.errorcode.get(value, value))
def test_a_call_fails_and_the_log_goes_on(call: str, error: int) -> None:
    assert failures(call, error, step=17)


@pytest.mark.faults
@pytest.mark.parametrize("call, error", CALLS, ids=lambda value: errno.errorcode.get(value, value))
def test_every_call_fails_and_the_log_goes_on(call: str, error: int, figure: Figure) -> None:
    places = failures(call, error, step=1)
    print(f"{call} fails with {errno.errorcode[error]}: {places} places")
    figure("every call fails with every error", places)


# -- the rows of the crash table


def one_record() -> tuple[SimDisk, Ledger]:
    """A partition with one record, closed, and on the medium."""
    scenario = SingleAppends()
    return scenario.prepare(), scenario.ledger


def ended(disk: SimDisk, ledger: Ledger, call: str, name: str, size: int = 60) -> None:
    """An append in a process that ends behind such a call."""
    store = open_store(STORE, disk=disk)
    store.partition_writer(store.topic("t"), 0)
    disk.stop_behind(call, name)
    with pytest.raises(Killed):
        ledger.append(store, "ended", size=size)


def after_power_cuts(disk: SimDisk, ledger: Ledger, limit: int = 60) -> set[bool]:
    """Whether the unacknowledged record is there, over states after a power cut; all promises are checked."""
    outcomes = set()
    for model in ("strict", "ordered"):
        for state in disk.crash_states(1, limit, model):
            mine = deepcopy(ledger)
            told: list[str] = []
            with open_store(STORE, disk=state, tell=told.append) as store:
                store.partition_writer(store.topic("t"), 0)
                found = read_all(store, "t", 1)
                mine.check(found)
                mine.settle(found)
                outcomes.add(any((value or b"").startswith(b"ended") for _, value in found[0]))
                mine.append(store, "after")
                mine.check(read_all(store, "t", 1))
            assert not [line for line in told if "damage" in line or "missing" in line], told
    return outcomes


def test_row_step_5_bytes_past_the_written_end_are_overwritten_by_who_lives() -> None:
    disk, ledger = one_record()
    with open_store(STORE, disk=disk.process()) as alive:
        alive.partition_writer(alive.topic("t"), 0)
        ended(disk, ledger, "pwrite", ".log")
        ledger.append(alive, "alive")
        found = read_all(alive, "t", 1)
        ledger.check(found)
        assert [value[:5] for _, value in found[0] if value] == [b"befor", b"alive"]


def test_row_step_5_is_cut_or_adopted_after_a_power_cut() -> None:
    disk, ledger = one_record()
    ended(disk, ledger, "pwrite", ".log")
    assert after_power_cuts(disk, ledger) == {True, False}


def test_row_steps_6_and_7_a_living_writer_covers_it_with_its_own_sync() -> None:
    disk, ledger = one_record()
    alive = open_store(STORE, disk=disk.process())
    alive.partition_writer(alive.topic("t"), 0)
    ended(disk, ledger, "pwrite", "lock")
    ledger.append(alive, "alive")
    ledger.saw(read_all(alive, "t", 1))
    assert after_power_cuts(alive.disk, ledger) == {True}  # type: ignore[arg-type]


def test_row_steps_6_and_7_a_newcomer_adopts() -> None:
    disk, ledger = one_record()
    alive = open_store(STORE, disk=disk.process())
    alive.partition_writer(alive.topic("t"), 0)
    ended(disk, ledger, "pwrite", "lock")
    newcomer = open_store(STORE, disk=disk.process())
    newcomer.partition_writer(newcomer.topic("t"), 0)
    ledger.saw(read_all(newcomer, "t", 1))
    assert after_power_cuts(newcomer.disk, ledger) == {True}  # type: ignore[arg-type]


def test_row_step_8_what_was_synced_and_not_published_is_found_and_published() -> None:
    disk, ledger = one_record()
    ended(disk, ledger, "fdatasync", ".log")
    assert after_power_cuts(disk, ledger) == {True}


def test_row_steps_9_and_10_an_acknowledged_record_is_kept_by_an_old_commit() -> None:
    disk, ledger = one_record()
    ended(disk, ledger, "pwrite", "commit")
    assert after_power_cuts(disk, ledger) == {True}


def test_row_step_9_while_another_one_poisons_fails() -> None:
    disk, ledger = one_record()
    mine, theirs = (open_store(STORE, disk=each) for each in (disk, disk.process()))
    writer = mine.partition_writer(mine.topic("t"), 0)
    theirs.partition_writer(theirs.topic("t"), 0)
    placed = writer.write(encode_records([b"mine"], None, 1, None, False))
    batch = ledger.begin("mine", 0, [b"mine"])
    disk.fail("fdatasync", lies="clean")
    with pytest.raises(errors.Poisoned):
        ledger.append(theirs, "theirs")
    with pytest.raises(errors.Poisoned) as failed:
        writer.sync(placed.end)
    ledger.failed(batch, failed.value)
    after_power_cuts(disk, ledger)


@pytest.mark.parametrize("keep_size", [False, True])
@pytest.mark.parametrize("somebody_lives", [False, True])
def test_row_a_sync_fails_and_the_process_dies_before_the_flag(keep_size: bool, somebody_lives: bool) -> None:
    disk, ledger = one_record()
    if somebody_lives:
        alive = open_store(STORE, disk=disk.process())
        alive.partition_writer(alive.topic("t"), 0)
    store = open_store(STORE, disk=disk)
    ledger.append(store)
    fault = disk.fail("fdatasync", lies="clean", keep_size=keep_size)
    disk.before_call = lambda call: disk.kill() if fault.hits else None
    with pytest.raises(Killed):
        ledger.append(store, "ended")
    newcomer = open_store(STORE, disk=disk.process())
    newcomer.partition_writer(newcomer.topic("t"), 0)
    found = read_all(newcomer, "t", 1)
    ledger.check(found)
    ledger.saw(found)
    ledger.append(newcomer)
    after_power_cuts(newcomer.disk, ledger)  # type: ignore[arg-type]


def rolling() -> tuple[SimDisk, Ledger, Store]:
    scenario = Roll()
    disk = scenario.prepare()
    store = open_store(STORE, disk=disk)
    for _ in range(3):
        scenario.ledger.append(store, size=20_000)
    return disk, scenario.ledger, store


@pytest.mark.parametrize("call", ["open", "pwrite", "fsync"])
def test_row_roll_before_the_rename_keeps_all_of_the_old(call: str) -> None:
    disk, ledger, store = rolling()
    disk.stop_behind(call, "roll.tmp")
    with pytest.raises(Killed):
        ledger.append(store, "ended", size=20_000)
    assert after_power_cuts(disk, ledger, 20) == {False}


def test_row_roll_renamed_and_not_published_is_followed_by_name() -> None:
    disk, ledger, store = rolling()
    disk.stop_behind("rename", ".log")
    with pytest.raises(Killed):
        ledger.append(store, "ended", size=20_000)
    assert after_power_cuts(disk, ledger, 20) == {False}


@pytest.mark.parametrize("call, name", [("rename", ".log"), ("fsync", "0"), ("pwrite", "commit")])
def test_row_heal_renamed_and_not_published_is_followed(call: str, name: str) -> None:
    disk, ledger = one_record()
    disk.fail("fdatasync", index=1, lies="clean")
    with open_store(STORE, disk=disk) as store:
        ledger.append(store)
        with pytest.raises(errors.Poisoned):
            ledger.append(store)
    healing = disk.process()
    store = open_store(STORE, disk=healing)
    healing.stop_behind(call, name)
    with pytest.raises(Killed):
        store.partition_writer(store.topic("t"), 0)
    after_power_cuts(healing, ledger)
    with open_store(STORE, disk=disk.process()) as store:
        ledger.append(store)
        after_power_cuts(store.disk, ledger)  # type: ignore[arg-type]


def recovered(disk: SimDisk) -> SimDisk:
    store = open_store(STORE, disk=disk)
    store.partition_writer(store.topic("t"), 0)
    return disk


def test_row_recovery_at_any_pass_gives_the_same_log() -> None:
    disk, ledger = one_record()
    ended(disk, ledger, "pwrite", ".log", size=3000)
    log = f"{STORE}/topics/t/0/{0:020d}.log"
    ends = 0
    for state in disk.crash_states(3, 20):
        whole = recovered(state.copy())
        for change in range(whole.changes):
            interrupted = state.copy()
            interrupted.stop_after(change)
            with pytest.raises(Killed):
                recovered(interrupted)
            assert recovered(interrupted.process()).tree()[log] == whole.tree()[log]
            ends += 1
    assert ends > 50


# -- what was found here once


def test_an_open_does_not_fail_while_another_writer_closes() -> None:
    # The one that closed held presence exclusively behind the append lock.
    for seed in range(60):
        scenario = Interleaved(seed, stay=0.7, processes=3, count=2)
        scenario.run(scenario.prepare())


def test_a_reader_alone_ends_where_a_power_cut_took_visible_records() -> None:
    # `commit` had reached the disk and the log had not: the reader asked for ever for what it never got.
    scenario = InCache()
    disk = scenario.prepare()
    store = open_store(STORE, disk=disk)
    scenario.ledger.append(store)
    files = [f"{STORE}/topics/t/0/{name}" for name in ("commit", f"{0:020d}.log")]
    found = 0
    for state in disk.crash_states(1, 500):
        commit, log = (state.tree()[file] for file in files)
        if commit == disk.tree()[files[0]] and log != disk.tree()[files[1]]:
            for read_only in (True, False):
                with open_store(STORE, create=False, read_only=read_only, disk=state.copy()) as again:
                    found += 1
                    try:
                        read_all(again, "t", 1)
                    except errors.Damaged:
                        assert read_only
    assert found


@pytest.mark.parametrize("call, name", [("rename", ".log"), ("fsync", "0"), ("pwrite", "commit")])
def test_a_heal_of_an_empty_segment_is_not_done_twice(call: str, name: str) -> None:
    # The healed segment has the name of the poisoned one, so it must be known by more than its name.
    scenario = PoisonedEmpty("fdatasync", 0, "clean")
    disk = scenario.prepare()
    disk.fail("fdatasync", lies="clean")
    with open_store(STORE, disk=disk) as store, pytest.raises(errors.Poisoned):
        scenario.ledger.append(store)
    healing = disk.process()
    store = open_store(STORE, disk=healing)
    healing.stop_behind(call, name)
    with pytest.raises(Killed):
        store.partition_writer(store.topic("t"), 0)
    with open_store(STORE, disk=disk.process()) as store:
        scenario.ledger.append(store)
        after_power_cuts(store.disk, scenario.ledger)  # type: ignore[arg-type]


def test_a_store_that_another_process_made_half_is_there_after_a_power_cut() -> None:
    # The parent of the store was synced by nobody when its maker died.
    disk = SimDisk()
    disk.stop_behind("rename", "store.toml")
    with pytest.raises(Killed):
        open_store("/deep/down/store", disk=disk)
    second = disk.process()
    open_store("/deep/down/store", disk=second).append("t", b"acknowledged")
    for state in second.crash_states(1, 60):
        with open_store("/deep/down/store", create=False, disk=state) as store:
            assert read_all(store, "t", 1) == {0: [(0, b"acknowledged")]}
