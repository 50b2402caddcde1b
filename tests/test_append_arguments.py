"""Arguments of the library's appends that mean nothing: refused, and nothing is appended or made."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pspf as library
from pspf import errors
from pspf.store.feed import FeedOptions, feed
from pspf.store.store import Store


@pytest.fixture
def store(store_dir: Path) -> Iterator[Store]:
    with library.open(str(store_dir)) as opened:
        yield opened


WITH_DURABILITY: "dict[str, Callable[[Store, str, str], object]]" = {
    "append": lambda store, topic, level: store.append(topic, b"x", durability=level),
    "append_many": lambda store, topic, level: store.append_many(topic, [b"x"], durability=level),
    "append_many of nothing": lambda store, topic, level: store.append_many(topic, [], durability=level),
    "writer": lambda store, topic, level: store.writer(topic, durability=level),
    "writer that gathers": lambda store, topic, level: store.writer(topic, durability=level, linger_ms=1),
    "partition_writer": lambda store, _, level: store.partition_writer(store.topic("there"), 0, level),
    "feed": lambda store, topic, level: feed(store, topic, ["/dev/null"], FeedOptions(durability=level)),
}


@pytest.mark.parametrize("level", ["Sync", "none", "", "fsync"])
@pytest.mark.parametrize("call", WITH_DURABILITY)
def test_an_unknown_durability_is_refused_instead_of_not_synced(store: Store, call: str, level: str) -> None:
    store.append("there", b"0")
    for topic in ("there", "new") if call != "partition_writer" else ("there",):
        with pytest.raises(errors.Usage, match="durability") as caught:
            WITH_DURABILITY[call](store, topic, level)
        assert "sync, interval, os" in str(caught.value) and caught.value.exit_code == 2
    assert [record.value for record in store.read("there")] == [b"0"]
    assert store.topics() == ["there"]


@pytest.mark.parametrize("level", ["sync", "interval", "os", None])
def test_the_durabilities_that_there_are(store: Store, level: "str | None") -> None:
    assert store.append("t", b"x", durability=level).durability == (level or "sync")


def gathered(store: Store, name: str) -> None:
    with store.writer("t", linger_ms=1) as writer:
        writer.append(b"x", headers=[(name, None)])


WITH_HEADER: "dict[str, Callable[[Store, str], object]]" = {
    "append": lambda store, name: store.append("t", b"x", headers=[(name, None)]),
    "append_many": lambda store, name: store.append_many("t", [b"x"], headers=[(name, None)]),
    "writer": lambda store, name: store.writer("t").append(b"x", headers=[(name, None)]),
    "writer that gathers": gathered,
}


@pytest.mark.parametrize("call", WITH_HEADER)
def test_a_header_name_above_65535_bytes_is_refused_by_name(store: Store, call: str) -> None:
    WITH_HEADER[call](store, "ä" * 32_767 + "x")
    with pytest.raises(errors.Usage, match="a header name of 65536 bytes; at most 65535"):
        WITH_HEADER[call](store, "ä" * 32_768)
    store.append("t", b"after")
    assert [record.value for record in store.read("t")] == [b"x", b"after"]


@pytest.mark.parametrize("sequence", [-1, -(1 << 32), 1.0, "0"])
def test_a_sequence_that_is_no_count_is_refused_instead_of_dropped(store: Store, sequence: int) -> None:
    for known in (False, True):
        if known:
            store.append("t", b"0", producer="me", sequence=0)
        with pytest.raises(errors.Usage, match="sequence"):
            store.append("t", b"x", producer="me", sequence=sequence)
    assert [record.value for record in store.read("t")] == [b"0"]


def test_a_sequence_without_a_producer_is_refused(store: Store) -> None:
    with pytest.raises(errors.Usage, match="producer"):
        store.append("t", b"x", sequence=0)
    assert store.topics() == []


@pytest.mark.parametrize("sequence", [1 << 31, (1 << 31) + 1, (1 << 32) - 1])
def test_a_late_sequence_of_a_producer_that_nothing_is_known_of_is_refused_by_name(
    store: Store, sequence: int
) -> None:
    with pytest.raises(errors.ProducerConflict, match="nothing is known of this producer"):
        store.append("t", b"x", producer="me", sequence=sequence)
    assert list(store.read("t")) == []
