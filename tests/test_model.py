"""A store against a model of dicts and lists, through random work, kills, power cuts and failing disks.

Hypothesis chooses what two processes do to up to three topics; after each step a third one, which only looks,
compares all that is stored with the model (:mod:`tests.support_model`). A failure prints the steps that lead
to it, shrunk to the fewest; ``-s`` shows how often everything happened.
"""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pspf import errors
from pspf.model import TopicConfig
from pspf.store.store import Store
from pspf.testing import Killed, PowerCut
from pspf.testing.faults import Stopped
from tests.support_figures import Figure
from tests.support_model import Headers, ModelTopic, Part, Read, changed, read_on, reads
from tests.support_model_engine import (
    COUNTS,
    ENDED,
    Beside,
    End,
    Plan,
    Tail,
    same_every_time,
)

if TYPE_CHECKING:
    from tests.soak import Slice, Work

STEPS = "store against a model, with crashes"

WHO = st.integers(0, 1)
NAME = st.sampled_from(["a", "a", "a", "b", "b", "c"])
PLACE = st.sampled_from([0, 0, 0, 1, 2])
SIZE = st.sampled_from([60, 0, -1, 1, 700, 4000, 9000, 20_000, 30_000])
KEY = st.sampled_from([None, None, b"", b"k", b"key-2", b"\n\xff"])
HEADERS: st.SearchStrategy[Headers] = st.sampled_from([(), (), (("h", b"1"), ("h", None), ("\xe9", b""))])
TIME = st.sampled_from([None, None, None, 0, 1_600_000_000_000, -5, 1 << 40])
DURABILITY = st.sampled_from([None, None, None, "sync", "os", "interval"])
BEHIND = st.sampled_from([0, 0, 0, 1, 1, 2, 6, -1])
CHANGES = st.sampled_from([-1, -1, -1, *range(24)])
"""Behind which change a process ends; -1: now."""
END = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 9), st.sampled_from([Killed, PowerCut])))
PLAN = st.builds(
    Plan,
    st.integers(0, 1 << 16),
    st.sampled_from([*range(6), 8, 12, 20, 35]),  # corners of the set first, then random states
    st.sampled_from(["strict", "ordered"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, None, 0, 1, 2, 4, 7]),
    st.sampled_from([Killed, PowerCut]),
)
CONFIG = st.builds(
    TopicConfig,
    partitions=st.sampled_from([1, 1, 2, 3]),
    durability=st.sampled_from(["sync", "sync", "sync", "interval", "os"]),
    compression=st.sampled_from(["none", "none", "zstd"]),
    segment_bytes=st.just(64 << 10),
    preallocate=st.booleans(),
    on_damage=st.sampled_from(["continue", "stop"]),
)
SETTING = st.sampled_from(
    [
        *(("durability", value) for value in ("sync", "os", "interval")),
        *(("compression", value) for value in ("none", "zstd")),
        *(("preallocate", value) for value in (False, True)),
        ("segment_bytes", 96 << 10),
        *[("partitions", 1)] * 2,  # so many more
    ]
)
FAULTS: list[tuple[str, int, dict[str, Any]]] = [
    ("pwrite", errno.ENOSPC, {}),
    ("pwrite", errno.EIO, {"name": ".log"}),
    ("pwrite", errno.EIO, {"name": "lock"}),
    ("pwrite", errno.EIO, {"name": "commit"}),
    ("pwrite", errno.ENOSPC, {"name": ".log", "short": 64}),  # less than any batch
    ("pwrite", errno.EIO, {"name": ".log", "lies": "writeback"}),
    ("pwritev", errno.ENOSPC, {}),
    ("fdatasync", errno.EIO, {}),
    ("fdatasync", errno.EIO, {"lies": "clean"}),
    ("fdatasync", errno.EIO, {"lies": "clean", "keep_size": True}),
    ("fdatasync", errno.EIO, {"lies": "aborted"}),
    ("fsync", errno.EIO, {}),
    ("fsync", errno.ENOSPC, {}),
    ("fsync", errno.EIO, {"lies": "clean"}),
    ("open", errno.EMFILE, {}),
    ("pread", errno.EIO, {}),
    ("rename", errno.ENOSPC, {}),
    ("mkdir", errno.ENOSPC, {}),
    ("truncate", errno.EIO, {}),
    ("unlink", errno.EIO, {}),
]


class StoreMachine(Beside, RuleBasedStateMachine):
    """Two processes, a store, and what it must hold. Rules come first, what they stand on behind them."""

    @initialize(config=CONFIG)
    def begin(self, config: TopicConfig) -> None:
        self.create_topic(0, "a", config)

    # -- rules: appends

    @rule(who=WHO, name=NAME, place=PLACE, size=SIZE, key=KEY, headers=HEADERS, time=TIME, level=DURABILITY)
    def append(
        self,
        who: int,
        name: str,
        place: int,
        size: int,
        key: bytes | None,
        headers: Headers,
        time: int | None,
        level: str | None,
    ) -> None:
        self.count("append")
        self.put(who, name, place, [self.wanted(size, key, headers, time)], level=level)

    @rule(who=WHO)
    def append_a_line(self, who: int) -> None:
        """The rule with the fewest arguments comes up most often."""
        self.count("append a line")
        self.put(who, "a", 0, [self.wanted(60)])

    @rule(who=WHO, name=NAME)
    def append_where_it_falls(self, who: int, name: str) -> None:
        """Without key and partition: in turn."""
        self.count("append in turn")
        self.put(who, name, None, [self.wanted(60)])

    @rule(
        who=WHO,
        name=NAME,
        place=st.one_of(st.none(), PLACE),
        rows=st.lists(st.tuples(SIZE, KEY), min_size=1, max_size=5),
        headers=HEADERS,
        time=TIME,
        level=DURABILITY,
    )
    def append_many(
        self,
        who: int,
        name: str,
        place: int | None,
        rows: list[tuple[int, bytes | None]],
        headers: Headers,
        time: int | None,
        level: str | None,
    ) -> None:
        self.count("append many")
        records = [self.wanted(size, key, headers, time) for size, key in rows]
        self.put(who, name, place, records, many=True, level=level)

    @rule(who=WHO, name=NAME, place=PLACE, producer=st.sampled_from("ppq"), behind=BEHIND)
    def append_as_producer(self, who: int, name: str, place: int, producer: str, behind: int) -> None:
        """The next record of a producer, a repeat of an earlier one, or one that leaves a gap."""
        self.count("append as producer")
        self.put(who, name, place, [self.wanted(60)], producer=producer, behind=behind)

    @rule(who=WHO, name=NAME, place=PLACE, off=st.sampled_from([0, 0, 0, 1, -1, 5]), size=SIZE)
    def append_at(self, who: int, name: str, place: int, off: int, size: int) -> None:
        self.count("append with expect_offset")
        self.put(who, name, place, [self.wanted(size)], off=off)

    @rule(
        who=WHO,
        name=NAME,
        rows=st.lists(st.sampled_from([5000, 9000, 20_000, 60]), min_size=1, max_size=3),
        level=DURABILITY,
        end=st.tuples(st.integers(1, 4), st.sampled_from([Killed, PowerCut])),
        torn=st.sampled_from([None, 0, 4096, 8192]),
        plan=PLAN,
    )
    def append_and_end_in_it(
        self,
        who: int,
        name: str,
        rows: list[int],
        level: str | None,
        end: tuple[int, type[Stopped]],
        torn: int | None,
        plan: Plan,
    ) -> None:
        """Inside a write, or between two calls of an append to a partition that is open."""
        self.count("append and end in it")
        self.put(who, name, 0, [self.wanted(60)], level=level)
        self.plan = plan
        self.workers[who].disk.stop_after(*end, torn)
        self.put(who, name, 0, [self.wanted(size) for size in rows], many=True, level=level)

    # -- rules: reading

    @rule(
        who=WHO,
        name=NAME,
        place=PLACE,
        first=st.integers(0, 30),
        count=st.integers(0, 10),
        back=st.booleans(),
    )
    def read_a_range(self, who: int, name: str, place: int, first: int, count: int, back: bool) -> None:
        self.count("read a range")
        name = self.there(name)
        found = self.resolve(who, name, place)
        if found is None:
            return
        store, topic_id, part, place = found
        text = f"-{count}" if back else f"{first}:{first + count}"
        outcome = self.attempt(who, lambda _: list(store.read(name, partitions=[place], ranges=[text])))
        self.look()  # a reader that comes first settles what a kill has left
        if isinstance(outcome, list):
            log = part.log
            expected = log[max(len(log) - count, 0) :] if back else log[first : first + count]
            begin = max(len(log) - count, 0) if back else first
            given = [
                (r.offset, Read(r.append_time_ns, r.timestamp_ms, r.key, r.value, tuple(r.headers)))
                for r in outcome
            ]
            assert given == list(enumerate(expected, begin))
        elif outcome is not ENDED:
            self.excuse(outcome, *self.told_of_a_rename(name, topic_id))

    @rule(who=WHO, name=NAME, place=PLACE, from_start=st.booleans())
    def begin_a_tail(self, who: int, name: str, place: int, from_start: bool) -> None:
        self.count("begin a tail")
        name = self.there(name)
        worker = self.workers[who]
        found = self.resolve(who, name, place)
        if found is None or len(worker.tails) > 3:
            return
        store, topic_id, part, place = found
        reader = store.reader(name, place)
        tail = Tail(name, topic_id, part, reader, 0 if from_start else len(part.log))

        def seek(_: Store) -> bool:
            try:
                if not from_start:
                    reader.seek(len(part.log))
            except OSError as error:  # of a reader alone, only what `read` raises is told in our words
                raise errors.from_os(error, "cannot seek") from error
            return True

        outcome = self.attempt(who, seek)
        if outcome is True:
            worker.tails.append(tail)
        elif outcome is not ENDED:
            self.excuse(outcome, *self.told_of_a_rename(name, topic_id))

    @rule(who=WHO, at_once=st.booleans())
    def poll_tails(self, who: int, at_once: bool) -> None:
        self.count("poll tails")
        for tail in list(self.workers[who].tails):
            self.poll(who, tail, at_once)

    # -- rules: topics

    @rule(who=WHO, name=NAME, config=CONFIG, end=END)
    def create_topic(self, who: int, name: str, config: TopicConfig, end: End = None) -> None:
        if name not in self.world.names:
            self.count("create")
            self.arm(who, end)
            self.change_names(who, "", name, lambda store: store.create_topic(name, config), config)

    @rule(who=WHO, name=NAME, new=NAME, config=CONFIG, place=PLACE)
    def rotate_topic(self, who: int, name: str, new: str, config: TopicConfig, place: int) -> None:
        """Another topic gets the name, which the other process remembers, and appends to."""
        name = self.there(name)
        if name in self.world.names and new not in self.world.names:
            self.count("rotate")
            self.put(1 - who, name, 0, [self.wanted(60)])
            self.rename(who, name, new)
            self.create_topic(who, name, config)
            self.put(1 - who, name, place, [self.wanted(60)], stale=True)

    @rule(
        who=WHO,
        name=NAME,
        changes=st.sampled_from([1, 1, 2, 3, 5]),
        second=st.sampled_from([None, None, 1, 3, 5, 7, 9]),
        plan=PLAN,
    )
    def delete_half_way(self, who: int, name: str, changes: int, second: int | None, plan: Plan) -> None:
        """A delete is killed, and finished by the next create, while the other process goes on appending."""
        name = self.there(name)
        if name not in self.world.names:
            return
        self.count("delete half-way")
        self.put(1 - who, name, 0, [self.wanted(60)])
        self.arm(who, (changes, Killed))
        self.change_names(who, name, "", lambda store: store.delete_topic(name))
        self.plan = plan
        self.arm(who, None if second is None else (second, PowerCut))
        for free in [each for each in "cab" if each not in self.world.names and each != name][:1]:
            self.create_topic(who, free, TopicConfig())
        self.put(1 - who, name, 0, [self.wanted(60)], stale=True)

    @rule(who=WHO, old=NAME, new=NAME, delete=st.integers(0, 3), end=END)
    def rename_or_delete_topic(self, who: int, old: str, new: str, delete: int, end: End) -> None:
        old = self.there(old)
        if old not in self.world.names:
            return
        self.arm(who, end)
        if not delete:
            self.count("delete")
            self.change_names(who, old, "", lambda store: store.delete_topic(old))
        elif new not in self.world.names:
            self.count("rename")
            self.rename(who, old, new)

    @rule(who=WHO, name=NAME, setting=SETTING)
    def alter_topic(self, who: int, name: str, setting: tuple[str, Any]) -> None:
        self.count("alter")
        self.alter(who, self.there(name), *setting)

    # -- rules: ends and failures

    @rule(who=WHO)
    def close(self, who: int) -> None:
        self.count("close")
        self.close_store(who)

    @rule(who=WHO, changes=CHANGES, torn=st.sampled_from([None, 0, 4096, 8192]))
    def kill(self, who: int, changes: int, torn: int | None) -> None:
        if changes < 0:
            self.count("kill at once")
            self.workers[who].disk.kill()
            self.workers[who] = self.fresh()
        else:
            self.count("kill later")
            self.workers[who].disk.stop_after(changes, Killed, torn)

    @rule(who=WHO, changes=CHANGES, torn=st.sampled_from([None, 0, 4096]), plan=PLAN)
    def cut_the_power(self, who: int, changes: int, torn: int | None, plan: Plan) -> None:
        self.plan = plan
        if changes < 0:
            self.count("cut the power at once")
            self.cut()
        else:
            self.count("cut the power later")
            self.workers[who].disk.stop_after(changes, PowerCut, torn)

    @precondition(lambda self: not self.faults)
    @rule(
        fault=st.sampled_from(FAULTS),
        index=st.sampled_from([0, 0, 0, 1, 2, 3, 5]),
        times=st.sampled_from([1, 1, 1, 50]),
    )
    def break_the_disk(self, fault: tuple[str, int, dict[str, Any]], index: int, times: int) -> None:
        self.count("arm a fault")
        call, error, more = fault
        self.workers[0].disk.fail(call, index, error, times=times, **more)

    @precondition(lambda self: self.faults)
    @rule(who=WHO)
    def mend_the_disk(self, who: int) -> None:
        """With the cause gone, whoever tries again gets on."""
        self.count("mend the disk")
        if self.machine.broken:  # only another mount helps
            self.cut()
            return
        self.workers[0].disk.heal()
        self.look()
        for name in list(self.world.names):
            for _ in range(3):
                if self.put(who, name, 0, [self.wanted(60)], fresh=True):
                    break
            else:
                raise AssertionError(f"appends to {name} fail for good")

    @rule(names=st.sets(st.sampled_from(["lock", "commit", ".index"]), min_size=1), plan=PLAN)
    def lose_derived_files(self, names: set[str], plan: Plan) -> None:
        """Files that are made from the log; ``lock`` and ``commit`` while nobody has the partition open."""
        if self.faults:
            return
        if names != {".index"}:
            if any(self.close_store(who) is not True for who in (0, 1)):
                return
            # A torn end must be settled before: with it, a lost ``commit`` is an end in doubt.
            self.recover(plan._replace(reader_first=False))
            if any(self.close_store(who) is not True for who in (0, 1)):
                return
        self.count("lose derived files")
        for partition in self.partition_directories():
            for name in list(partition.entries):
                if name.endswith(tuple(names)):
                    self.machine.change_names(
                        f"lose {name}", removed=(partition, name, partition.entries[name])
                    )
                    del partition.entries[name]
        self.machine.sync_all()
        if names != {".index"}:
            self.start(self.looker.process())
            # Killed, not without power: with what it makes unsynced, the end would be in doubt.
            self.recover(plan._replace(again_how=Killed))
            self.machine.sync_all()

    @rule(by=st.sampled_from([2_000_000_000, 2_000_000_000, -3_600_000_000_000, 100_000_000]))
    def time_passes(self, by: int) -> None:
        self.count("time passes")
        self.looker.advance(by)

    @invariant()
    def what_is_stored_is_what_the_model_holds(self) -> None:
        self.look()

    def teardown(self) -> None:
        if self.machine.broken or any(worker.disk.dead for worker in self.workers):
            return
        self.look()
        self.check_verify()

    # -- what the rules have in common

    @staticmethod
    def count(rule_name: str) -> None:
        COUNTS["steps"] += 1
        COUNTS[f"rule: {rule_name}"] += 1

    def resolve(self, who: int, name: str, place: int) -> tuple[Store, bytes, Part, int] | None:
        """The store, and what it holds to be the partition; None if there is none."""
        outcome = self.attempt(who, lambda store: (store, store.topic(name)))
        if not isinstance(outcome, tuple):
            if outcome is not ENDED:
                self.excuse(outcome, errors.NoSuchTopic)
            return None
        store, topic = outcome
        topic_id = topic.topic_id
        if topic_id not in self.world.names.values() or self.unreadable(self.topics[topic_id]):
            return None
        place %= topic.config.partitions
        return store, topic_id, self.topics[topic_id].part(place), place

    def arm(self, who: int, end: End) -> None:
        """End the process soon: kills that are armed at any time seldom come to a change of names."""
        if end is not None:
            self.workers[who].disk.stop_after(*end)

    def rename(self, who: int, old: str, new: str) -> None:
        def call(store: Store) -> None:
            store.rename_topic(old, new)

        self.change_names(who, old, new, call)

    def change_names(
        self, who: int, old: str, new: str, call: Callable[[Store], object], config: TopicConfig | None = None
    ) -> None:
        """Make, rename or delete a topic, and take over whether it was done."""
        world, before, cuts = self.world, dict(self.world.names), self.cuts
        self.making = config
        world.open.append((old, new, before.get(old, b"")))
        outcome = self.attempt(who, call)
        if self.cuts != cuts:
            return  # settled behind the power cut
        found = self.names_found()
        topic_id = before.get(old) or found.get(new) or b""
        world.open[-1] = (old, new, topic_id)
        if config is not None and topic_id:
            self.topics[topic_id] = ModelTopic(config)
        after = changed(before, old, new, topic_id)
        done = outcome is not ENDED and not isinstance(outcome, errors.Error)
        assert found == after or (found == before and not done), f"{before} became {found}"
        world.names = found
        if done:
            world.settled()
        else:
            COUNTS["change of names in doubt"] += 1
            if outcome is not ENDED:
                self.excuse(outcome)
        self.checked = -1

    def alter(self, who: int, name: str, setting: str, value: Any) -> None:
        topic_id = self.world.names.get(name)
        if topic_id is None:
            return
        topic = self.topics[topic_id]
        self.observer.forget(name)
        items: dict[str, Any] = dict(self.observer.topic(name).config.items())
        if setting == "partitions":
            value += items[setting]
            if value > 4:
                return
        topic.intends(TopicConfig(**{**items, setting: value}))
        outcome = self.attempt(who, lambda store: store.alter_topic(name, **{setting: value}))
        if isinstance(outcome, TopicConfig):
            assert outcome == topic.configs[-1]
            topic.configs = [outcome]
        elif outcome is not ENDED:
            self.excuse(outcome)
        self.checked = -1

    def poll(self, who: int, tail: Tail, at_once: bool) -> None:
        self.look()
        part, at = tail.part, len(tail.seen)
        if self.unreadable(self.topics[tail.topic_id]):
            return
        outcome = self.attempt(
            who, lambda _: read_on(tail.reader) if at_once else reads(tail.reader.read(1 << 12))
        )
        self.look()  # it settles what a kill has left
        if tail.topic_id not in self.world.names.values():
            # The model does not follow a topic that is gone; what still comes is no error, and no promise.
            if not isinstance(outcome, list):
                self.workers[who].tails = [each for each in self.workers[who].tails if each is not tail]
        elif isinstance(outcome, list):
            given = [(offset, record) for offset, record in outcome if offset >= at]
            assert given == list(enumerate(part.log[at : at + len(given)], at)), f"a tail at {at}: {part}"
            tail.seen += [record for _, record in given]
            assert tail.seen == part.log[: len(tail.seen)], f"a tail was not told what was taken back: {part}"
            assert len(tail.seen) == len(part.log) or not at_once
            COUNTS["records tailed"] += len(given)
        elif isinstance(outcome, errors.RecordsTakenBack):
            COUNTS["tail told of records taken back"] += 1
            assert part.losses
            del tail.seen[outcome.offset :]
        elif isinstance(outcome, errors.TopicDeleted):
            # One that has not come to any record yet looks for the topic by its name.
            assert not tail.seen and self.world.names.get(tail.name) != tail.topic_id
            self.workers[who].tails.remove(tail)
        elif outcome is not ENDED:
            self.excuse(outcome)
            self.workers[who].tails = [each for each in self.workers[who].tails if each is not tail]


def run(examples: int, steps: int, start: int | None = None) -> int:
    """Run the machine; how many steps that were."""
    before = COUNTS["steps"]
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    with pytest.MonkeyPatch.context() as patches:
        same_every_time(patches)
        machine = StoreMachine if start is None else seed(start)(StoreMachine)
        run_state_machine_as_test(machine, settings=how)
    print(*(f"{count:>9} {name}" for name, count in sorted(COUNTS.items())), sep="\n")
    return COUNTS["steps"] - before


@pytest.mark.timeout(600)  # for the shrinking of a failure
def test_a_store_holds_what_it_acknowledged_whatever_happens() -> None:
    assert run(150, 30) > 1_000


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_store_holds_what_it_acknowledged_in_the_figures(figure: Figure) -> None:
    figure(STEPS, run(200, 50, int(os.environ.get("PSPF_TEST_SEED", "20"))))


def soak(part: "Slice") -> int:
    return run(600, 50, part.seed)


SOAK: "dict[str, Work]" = {STEPS: soak}
