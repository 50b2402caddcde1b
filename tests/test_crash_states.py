"""The engine on a simulated disk: ended behind every call, without power in every legal way, and recovered.

Each scenario is swept twice: briefly in the fast suite, and with the figures of `make faults`. A violation
says which scenario, seed, stop and crash state it was; the same call of ``sweep`` shows it again. Behind the
sweeps stand the rows of the crash table, each as a test of its name.
"""

import os
from copy import deepcopy
from random import Random

import pytest

from pspf import errors
from pspf.format.encode import encode_records
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing import Killed, PowerCut, SimDisk
from pspf.testing.faults import Stopped
from pspf.testing.ledger import Ledger, read_all
from pspf.testing.scenarios import SCENARIOS, STORE, TOGETHER, Roll, SingleAppends
from pspf.testing.sweep import Figures, sweep

SEED = int(os.environ.get("PSPF_TEST_SEED", "20"))
FIGURE = 250
ORDERS = 25


@pytest.fixture(autouse=True)
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


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_acknowledged_is_lost(name: str) -> None:
    figures = sweep(name, SCENARIOS[name](), seed=1, states=8, stops=5, in_recovery=1)
    assert not figures.violations, "\n\n".join(figures.violations)


@pytest.mark.parametrize("how", [Killed, PowerCut])
@pytest.mark.parametrize("name", TOGETHER)
def test_nothing_acknowledged_is_lost_by_writers_that_meet(name: str, how: type[Stopped]) -> None:
    figures = sweep(name, TOGETHER[name](1), seed=1, states=8, stops=5, in_recovery=1, how=how)
    assert not figures.violations, "\n\n".join(figures.violations)


@pytest.mark.faults
@pytest.mark.parametrize("name", SCENARIOS)
def test_figures(name: str) -> None:
    figures = sweep(name, SCENARIOS[name](), seed=SEED, states=FIGURE, in_recovery=2)
    print(Figures.head(), figures.row(), sep="\n")
    assert not figures.violations, "\n\n".join(figures.violations)


@pytest.mark.faults
@pytest.mark.parametrize("how", [Killed, PowerCut])
@pytest.mark.parametrize("name", TOGETHER)
def test_figures_of_writers_that_meet(name: str, how: type[Stopped]) -> None:
    # The order of calls is what matters here: many orders, some stops and states of each.
    told = f"{name}, {'one killed' if how is Killed else 'power cut'}"
    total = Figures(told, SEED)
    for seed in range(SEED, SEED + ORDERS):
        figures = sweep(
            told, TOGETHER[name](seed), seed=seed, states=FIGURE // ORDERS, stops=4, in_recovery=1, how=how
        )
        total.add(figures)
    print(Figures.head(), total.row(), sep="\n")
    assert not total.violations, "\n\n".join(total.violations)


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


@pytest.mark.parametrize(
    "call, name", [("rename", ".log"), ("fsync", "0"), ("pwrite", "commit"), ("fdatasync", "commit")]
)
def test_row_heal_renamed_and_not_published_is_followed(call: str, name: str) -> None:
    disk, ledger = one_record()
    disk.fail("fdatasync", index=1, lies="clean")
    with open_store(STORE, disk=disk) as store:
        ledger.append(store)
        with pytest.raises(errors.Poisoned):
            ledger.append(store)
    healing = disk.process()
    store = open_store(STORE, disk=healing)
    # The first sync of `commit` comes before the rename.
    healing.stop_behind(call, name, 1 if call == "fdatasync" else 0)
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
