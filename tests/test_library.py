"""The library as a user has it: what ``pspf.open`` gives, from one thread and from several."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pspf
from pspf import errors
from pspf.model import Appended, Record, TopicConfig
from pspf.store.store import Store, partition_of


@pytest.fixture
def store(store_dir: Path) -> Iterator[Store]:
    with pspf.open(str(store_dir)) as opened:
        yield opened


def values(store: Store, topic: str = "t") -> list[bytes | None]:
    return [record.value for record in store.read(topic)]


# -- opening


def test_open_makes_a_store_once(scratch_dir: Path) -> None:
    path = scratch_dir / "deep" / "down"
    with pspf.open(str(path)) as store:
        assert store.created and store.path == str(path) and len(store.store_id) == 32
    with pspf.open(str(path)) as again:
        assert not again.created and again.store_id == store.store_id


def test_open_takes_a_path_object(store_dir: Path) -> None:
    with pspf.open(store_dir) as store:  # type: ignore[arg-type, unused-ignore]
        assert store.path == str(store_dir)


def test_open_takes_a_relative_path(scratch_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch_dir)
    with pspf.open("here") as store:
        monkeypatch.chdir("/")
        store.append("t", b"v")
        assert values(store) == [b"v"]
    assert (scratch_dir / "here/store.toml").exists()


def test_open_without_a_path_takes_the_environment(store_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSPF_STORE", str(store_dir))
    with pspf.open() as store:
        assert store.path == str(store_dir)


def test_open_without_create_makes_nothing(scratch_dir: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(errors.NoSuchStore):
            pspf.open(str(scratch_dir / "none"), **options)
    assert not (scratch_dir / "none").exists()


def test_a_closed_store_says_so(store_dir: Path) -> None:
    store = pspf.open(str(store_dir))
    store.append("t", b"v")
    store.close()
    store.close()
    for call in (lambda: store.append("t", b"v"), store.topics, lambda: list(store.read("t"))):
        with pytest.raises(errors.Closed):
            call()


def test_a_read_only_store_reads_and_refuses_to_write(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"v")
    with pspf.open(str(store_dir), read_only=True) as store:
        assert values(store) == [b"v"]
        for call in (
            lambda: store.append("t", b"v"),
            lambda: store.append("new", b"v"),
            lambda: store.create_topic("u"),
            lambda: store.delete_topic("t"),
            lambda: store.rename_topic("t", "u"),
            lambda: store.add_partitions("t", 2),
            lambda: store.alter_topic("t", durability="os"),
        ):
            with pytest.raises(errors.Denied, match="read-only"):
                call()
        assert values(store) == [b"v"] and store.topics() == ["t"]


# -- appending


def test_append_says_where_the_record_went(store: Store) -> None:
    rows = [store.append("t", b"v", key=b"k"), store.append("t", "text", key="key")]
    assert [(r.topic, r.partition, r.first, r.last, r.durability, r.duplicate) for r in rows] == [
        ("t", 0, 0, 0, "sync", False),
        ("t", 0, 1, 1, "sync", False),
    ]
    assert isinstance(rows[0], Appended) and "0..0" in repr(rows[0])


def test_a_record_comes_back_with_all_that_it_had(store: Store) -> None:
    headers = [("h", b"x"), ("n", None), ("h", b"")]
    store.append("t", b"v", key=b"k", headers=headers, timestamp_ms=-7)
    store.append("t", None)
    store.append("t", b"", key="")
    first, second, third = store.read("t")
    assert isinstance(first, Record)
    assert (first.topic, first.partition, first.offset, first.timestamp_ms) == ("t", 0, 0, -7)
    assert (first.key, first.value, list(first.headers)) == (b"k", b"v", headers)
    assert (second.key, second.value, list(second.headers)) == (None, None, [])
    assert (third.key, third.value) == (b"", b"")
    assert first.append_time_ns < second.append_time_ns < third.append_time_ns


def test_append_many_is_a_batch_for_each_partition(store: Store) -> None:
    store.create_topic("t", TopicConfig(partitions=3))
    keys = [b"k%d" % (n % 7) for n in range(100)]
    rows = store.append_many("t", [b"%d" % n for n in range(100)], keys=keys, timestamps_ms=list(range(100)))
    assert len(rows) == len({row.partition for row in rows}) == 3
    assert sum(row.last - row.first + 1 for row in rows) == 100
    for record in store.read("t"):
        number = int(record.value or b"")
        assert record.timestamp_ms == number and record.key == keys[number]
        assert record.partition == partition_of(record.key or b"", 3)


def test_append_many_of_nothing(store: Store) -> None:
    assert store.append_many("t", []) == []
    assert values(store) == []


def test_append_many_refuses_keys_that_do_not_match(store: Store) -> None:
    with pytest.raises(errors.Usage):
        store.append_many("t", [b"v"], keys=[b"a", b"b"])
    with pytest.raises(errors.Usage):
        store.append_many("t", [b"v", b"w"], timestamps_ms=[1])
    assert values(store) == []


def test_append_many_of_more_than_a_batch(store: Store) -> None:
    wanted = [bytes([n % 256]) * 30_000 for n in range(300)]
    rows = store.append_many("t", wanted)
    assert len(rows) > 1 and [row.first for row in rows[1:]] == [row.last + 1 for row in rows[:-1]]
    assert values(store) == wanted


def test_a_record_that_is_too_large_leaves_the_others_of_its_call_out(store: Store) -> None:
    store.create_topic("t", TopicConfig(max_record_bytes=10))
    for call in (
        lambda: store.append("t", bytes(11)),
        lambda: store.append("t", bytes(6), key=bytes(5)),
        lambda: store.append_many("t", [b"1", bytes(11), b"3"]),
        lambda: store.append_many("t", [b"1", bytes(6)], keys=[bytes(1), bytes(5)]),
    ):
        with pytest.raises(errors.RecordTooLarge, match="max_record_bytes"):
            call()
    assert values(store) == []
    store.append("t", bytes(5), key=bytes(5))


def test_headers_count_towards_the_size_of_a_record(store: Store) -> None:
    store.create_topic("t", TopicConfig(max_record_bytes=100))
    with pytest.raises(errors.RecordTooLarge):
        store.append("t", b"v", headers=[("h", bytes(200))])


def test_expect_offset(store: Store) -> None:
    store.append("t", b"0", expect_offset=0)
    with pytest.raises(errors.OffsetConflict) as caught:
        store.append("t", b"x", expect_offset=0)
    assert caught.value.exit_code == 1
    store.append("t", b"1", expect_offset=1)
    assert values(store) == [b"0", b"1"]


def test_expect_offset_lets_one_of_two_win(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as one, pspf.open(str(store_dir)) as other:
        won = 0
        for offset in range(20):
            for store in (one, other) if offset % 2 else (other, one):
                try:
                    store.append("t", b"%d" % offset, expect_offset=offset)
                    won += 1
                except errors.OffsetConflict:
                    pass
        assert won == 20
        assert values(one) == [b"%d" % n for n in range(20)]


def test_create_false_makes_no_topic(store: Store) -> None:
    for call in (
        lambda: store.append("t", b"v", create=False),
        lambda: store.append_many("t", [b"v"], create=False),
        lambda: store.writer("t", create=False),
    ):
        with pytest.raises(errors.NoSuchTopic):
            call()
    assert store.topics() == []


# -- writers that gather


def test_a_writer_without_linger_acknowledges_each_append(store: Store) -> None:
    with store.writer("t") as writer:
        ticket = writer.append(b"v", key="k", headers=[("h", b"x")], timestamp_ms=5)
        assert ticket.done
        (row,) = ticket.wait()
        assert (row.first, row.last) == (0, 0)
        (record,) = store.read("t")
        assert (record.key, list(record.headers), record.timestamp_ms) == (b"k", [("h", b"x")], 5)


def test_a_writer_gathers_until_it_is_flushed(store: Store) -> None:
    with store.writer("t", linger_ms=60_000) as writer:
        tickets = [writer.append(b"%d" % n, timestamp_ms=n) for n in range(10)]
        assert not tickets[0].done and values(store) == []
        (row,) = writer.flush()
        assert (row.first, row.last) == (0, 9)
        assert all(ticket.done and ticket.wait() == [row] for ticket in tickets)
        assert writer.flush() == []
        writer.append(b"10")
    assert values(store) == [b"%d" % n for n in range(11)]
    with pytest.raises(errors.Closed):
        writer.append(b"v")


def test_a_writer_sends_what_has_lingered(store: Store) -> None:
    with store.writer("t", linger_ms=1) as writer:
        for number in range(5):
            ticket = writer.append(b"%d" % number)
            for _ in range(3_000):
                if ticket.done:
                    break
                threading.Event().wait(0.01)
            assert ticket.done, "nobody sent it"
        assert values(store) == [b"%d" % n for n in range(5)]


def test_a_writer_sends_when_a_megabyte_has_gathered(store: Store) -> None:
    with store.writer("t", linger_ms=60_000) as writer:
        tickets = [writer.append(bytes(100_000)) for _ in range(25)]
        assert tickets[0].done and not tickets[-1].done
    assert len(values(store)) == 25


def test_a_gathered_record_keeps_its_key_headers_and_time(store: Store) -> None:
    with store.writer("t", linger_ms=60_000) as writer:
        writer.append(b"plain", timestamp_ms=1)
        writer.append(b"all", key=b"k", headers=[("h", b"x")], timestamp_ms=2)
        writer.append(None, timestamp_ms=3)
    found = [(r.value, r.key, list(r.headers), r.timestamp_ms) for r in store.read("t")]
    assert found == [(b"plain", None, [], 1), (b"all", b"k", [("h", b"x")], 2), (None, None, [], 3)]


def test_an_error_of_a_gathering_comes_out_of_its_ticket(store: Store) -> None:
    writer = store.writer("t", partition=1, linger_ms=60_000)
    ticket = writer.append(b"nowhere")
    with pytest.raises(errors.NoSuchPartition):
        writer.flush()
    with pytest.raises(errors.NoSuchPartition):
        ticket.wait()
    store.add_partitions("t", 2)
    writer.append(b"there").wait()
    writer.close()
    assert values(store) == [b"there"]


def test_an_error_that_nobody_waited_for_comes_out_of_close(store: Store) -> None:
    writer = store.writer("t", partition=1, linger_ms=1)
    ticket = writer.append(b"nowhere")
    for _ in range(3_000):
        if ticket.done:
            break
        threading.Event().wait(0.01)
    with pytest.raises(errors.NoSuchPartition):
        writer.close()


def test_a_writer_to_one_partition(store: Store) -> None:
    store.create_topic("t", TopicConfig(partitions=3))
    with store.writer("t", partition=2, linger_ms=5) as writer:
        for number in range(5):
            writer.append(b"%d" % number, key=b"%d" % number)
    assert {record.partition for record in store.read("t")} == {2}


def test_what_a_writer_gathered_is_there_after_its_store_was_closed_in_order(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store, store.writer("t", linger_ms=60_000) as writer:
        writer.append(b"v")
    with pspf.open(str(store_dir)) as store:
        assert values(store) == [b"v"]


# -- reading


def test_read_selects(store: Store) -> None:
    store.create_topic("t", TopicConfig(partitions=2))
    for number in range(10):
        store.append(
            "t", b"%d" % number, partition=number % 2, key=b"k%d" % (number % 4), timestamp_ms=number
        )

    def numbers(**options: object) -> list[int]:
        return [int(record.value or b"") for record in store.read("t", **options)]  # type: ignore[arg-type]

    assert numbers() == list(range(10))
    assert numbers(partitions=[1]) == [1, 3, 5, 7, 9]
    assert numbers(ranges=["1:3"]) == [2, 3, 4, 5]
    assert numbers(ranges=["-1"]) == [8, 9]
    assert numbers(since_ms=7) == [7, 8, 9]
    assert numbers(until_ms=3) == [0, 1, 2]
    assert numbers(limit=3) == [0, 1, 2]
    assert numbers(by_partition=True) == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert numbers(key=b"k2", partitions=[0]) == [2, 6]
    with pytest.raises(errors.Usage):
        numbers(ranges=["nonsense"])
    with pytest.raises(errors.NoSuchPartition):
        numbers(partitions=[2])
    with pytest.raises(errors.NoSuchTopic):
        list(store.read("none"))


def test_tail_gives_the_last_and_ends_where_it_does_not_follow(store: Store) -> None:
    store.append_many("t", [b"%d" % n for n in range(20)])
    assert [record.value for record in store.tail("t", last=3, follow=False)] == [b"17", b"18", b"19"]
    assert len(list(store.tail("t", follow=False))) == 10
    assert list(store.tail("t", last=0, follow=False)) == []


def test_tail_follows_what_is_appended_meanwhile(store: Store) -> None:
    store.append("t", b"0")
    tail = store.tail("t", last=None)  # type: ignore[arg-type, unused-ignore]
    for number in range(30):
        record = next(tail)
        assert record.value == b"%d" % number
        store.append("t", b"%d" % (number + 1))


def test_tail_ends_when_its_topic_is_deleted(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store, pspf.open(str(store_dir)) as other:
        store.append("t", b"v")
        tail = store.tail("t")
        assert next(tail).value == b"v"
        other.delete_topic("t")
        with pytest.raises(errors.TopicDeleted):
            next(tail)


def test_a_reader_that_stops_early_gives_its_files_back(store: Store) -> None:
    import os

    store.append_many("t", [b"%d" % n for n in range(100)])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(50):
        iterator = store.read("t")
        next(iterator)
        del iterator
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 3


# -- topics


def test_the_life_of_a_topic(store: Store) -> None:
    info = store.create_topic("t", TopicConfig(partitions=2, durability="os"))
    assert info.name == "t" and info.config.durability == "os" and len(info.partitions) == 2
    with pytest.raises(errors.Exists):
        store.create_topic("t")
    store.append("t", b"v", partition=1)
    assert store.add_partitions("t", 4) == 4
    assert store.alter_topic("t", durability="sync", max_record_bytes=1000).max_record_bytes == 1000
    assert store.append("t", b"v", partition=3).durability == "sync"
    store.rename_topic("t", "u")
    assert store.topics() == ["u"]
    described = store.describe("u")
    assert (described.topic_id, described.created_ms) == (info.topic_id, info.created_ms)
    assert [(p.start, p.end, p.records) for p in described.partitions] == [
        (0, 0, 0),
        (0, 1, 1),
        (0, 0, 0),
        (0, 1, 1),
    ]
    stats = store.stats("u")
    assert (stats.name, stats.partitions, stats.records) == ("u", 4, 2)
    store.append("u", b"v", partition=1)
    store.delete_topic("u")
    assert store.topics() == []
    for call in (store.describe, store.delete_topic, store.stats):
        with pytest.raises(errors.NoSuchTopic):
            call("u")


def test_a_topic_cannot_have_fewer_partitions(store: Store) -> None:
    store.create_topic("t", TopicConfig(partitions=3))
    for total in (3, 2, 0, -1):
        with pytest.raises(errors.Error):
            store.add_partitions("t", total)
    with pytest.raises(errors.BadConfig):
        store.add_partitions("t", 10_001)
    assert store.partition_count("t") == 3


@pytest.mark.parametrize(
    "settings", [{"partitions": 0}, {"segment_bytes": 1}, {"durability": "maybe"}, {"compression": "rar"}]
)
def test_a_setting_that_means_nothing_is_refused(store: Store, settings: dict[str, "int | str"]) -> None:
    with pytest.raises(errors.BadConfig):
        store.create_topic("t", TopicConfig(**settings))  # type: ignore[arg-type]
    with pytest.raises(errors.BadConfig):
        store.create_topic("u")
        store.alter_topic("u", no_such_setting=1)
    assert store.topics() == ["u"]


def test_rename_onto_a_topic_that_exists_is_refused(store: Store) -> None:
    store.append("t", b"t")
    store.append("u", b"u")
    with pytest.raises(errors.Exists):
        store.rename_topic("t", "u")
    with pytest.raises(errors.NoSuchTopic):
        store.rename_topic("none", "v")
    assert values(store, "t") == [b"t"] and values(store, "u") == [b"u"]


def test_a_store_that_is_open_for_long_sees_partitions_that_another_adds(store_dir: Path) -> None:
    """Twice, since what is cached at first may be checked in another way than what is cached later."""
    with pspf.open(str(store_dir)) as store, pspf.open(str(store_dir)) as other:
        store.create_topic("t")
        for total in (2, 3):
            store.append("t", b"v")
            other.add_partitions("t", total)
            for _ in range(1_000):
                if store.partition_count("t") == total:
                    break
                threading.Event().wait(0.01)
            assert store.partition_count("t") == total


# -- threads


def test_threads_share_a_store(store: Store) -> None:
    store.create_topic("t", TopicConfig(partitions=2, segment_bytes=65536))
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(150):
                store.append("t", b"%s:%d:" % (name.encode(), number) + bytes(300), key=name)
        except BaseException as error:
            failures.append(error)

    run_threads([threading.Thread(target=work, args=(f"thread{n}",)) for n in range(6)])
    assert not failures
    found: dict[bytes, list[int]] = {}
    for record in store.read("t"):
        name, number, _ = (record.value or b"").split(b":")
        assert record.key == name
        found.setdefault(name, []).append(int(number))
    assert list(found.values()) == [list(range(150))] * 6
    assert store.verify().ok


def test_threads_share_a_writer(store: Store) -> None:
    with store.writer("t", linger_ms=2) as writer:

        def work(name: int) -> None:
            for number in range(300):
                writer.append(b"%d:%d" % (name, number))
                if number % 50 == 49:
                    writer.flush()

        run_threads([threading.Thread(target=work, args=(n,)) for n in range(6)])
    found: dict[bytes, list[int]] = {}
    for value in values(store):
        name, _, number = (value or b"").partition(b":")
        found.setdefault(name, []).append(int(number))
    assert sorted(found) == [b"%d" % n for n in range(6)]
    assert list(found.values()) == [list(range(300))] * 6


def test_threads_read_while_others_write(store: Store) -> None:
    store.create_topic("t", TopicConfig(segment_bytes=65536))
    seen: list[list[bytes | None]] = []

    def follow() -> None:
        mine: list[bytes | None] = []
        for record in store.tail("t", last=None):  # type: ignore[arg-type, unused-ignore]
            mine.append(record.value)
            if len(mine) == 400:
                break
        seen.append(mine)

    def write() -> None:
        for number in range(400):
            store.append("t", b"%d:" % number + bytes(400))

    run_threads([threading.Thread(target=target) for target in (follow, follow, write)])
    assert seen == [values(store)] * 2


def test_threads_that_create_one_topic_at_once(store: Store) -> None:
    def work() -> None:
        store.append("t", b"v")

    run_threads([threading.Thread(target=work) for _ in range(8)])
    assert len(values(store)) == 8


def run_threads(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"


# -- errors


def test_every_error_is_an_error_of_pspf_with_an_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 15
    for kind in kinds:
        assert issubclass(kind, pspf.Error)
        assert kind.exit_code in (1, 2, 65, 66, 73, 74, 75, 77, 78)
        error = kind("what", "why", "where", "hint")
        assert str(error) == "what: why (where)" and error.hint == "hint"
        assert kind.__doc__


def test_what_the_package_offers() -> None:
    for name in pspf.__all__:
        assert getattr(pspf, name) is not None
    with pytest.raises(AttributeError):
        pspf.no_such_thing  # noqa: B018
