"""Writers that gather: one record's fault is its own, and what was gathered is never lost in silence."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pspf
from pspf import errors
from pspf.model import TopicConfig
from pspf.store.store import Store


@pytest.fixture
def store(store_dir: Path) -> Iterator[Store]:
    with pspf.open(str(store_dir)) as opened:
        yield opened


def values(store: Store) -> list[bytes | None]:
    return [record.value for record in store.read("t")]


BAD: dict[str, tuple[dict[str, Any], type[errors.Error]]] = {
    "value too large": ({"value": bytes(101)}, errors.RecordTooLarge),
    "key too large": ({"value": b"", "key": bytes(101)}, errors.RecordTooLarge),
    "headers too large": ({"value": b"v", "headers": [("h", bytes(101))]}, errors.RecordTooLarge),
    "value of another type": ({"value": 5}, errors.Usage),
    "value of a list": ({"value": [b"v"]}, errors.Usage),
    "value with a lone surrogate": ({"value": "\ud800"}, errors.Usage),
    "key of another type": ({"value": b"v", "key": 5}, errors.Usage),
    "headers are no pairs": ({"value": b"v", "headers": [b"h"]}, errors.Usage),
    "headers are a number": ({"value": b"v", "headers": 5}, errors.Usage),
    "header name is bytes": ({"value": b"v", "headers": [(b"h", b"x")]}, errors.Usage),
    "header name too long": ({"value": b"v", "headers": [("h" * 65_536, b"")]}, errors.Error),
    "header value of another type": ({"value": b"v", "headers": [("h", 5)]}, errors.Usage),
    "timestamp beyond 64 bits": ({"value": b"v", "timestamp_ms": 1 << 63}, errors.Usage),
    "timestamp before 64 bits": ({"value": b"v", "timestamp_ms": -(1 << 63) - 1}, errors.Usage),
    "timestamp is no number": ({"value": b"v", "timestamp_ms": "now"}, errors.Usage),
    "timestamp is a fraction": ({"value": b"v", "timestamp_ms": 1.5}, errors.Usage),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_does_not_fail_those_it_was_gathered_with(store: Store, name: str) -> None:
    record, kind = BAD[name]
    store.create_topic("t", TopicConfig(max_record_bytes=100))
    with store.writer("t", linger_ms=60_000) as writer:
        writer.append(b"before")
        with pytest.raises(kind):
            writer.append(**record)
        writer.append(b"after", key="k", headers=[("h", b"x"), ("n", None)])
    assert values(store) == [b"before", b"after"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_an_error_of_pspf_also_without_gathering(store: Store, name: str) -> None:
    record, kind = BAD[name]
    store.create_topic("t", TopicConfig(max_record_bytes=100))
    with pytest.raises(kind):
        store.append("t", **record)
    assert values(store) == []


def test_what_was_gathered_does_not_change_with_the_buffer_that_it_came_in(store: Store) -> None:
    value, key, header = bytearray(b"value"), bytearray(b"key"), bytearray(b"head")
    headers: Any = [("h", header)]
    with store.writer("t", linger_ms=60_000) as writer:
        writer.append(value, key=key, headers=headers)
        writer.append(memoryview(value))
        value[:] = key[:] = b"xxxxx"
        header[:] = b"xxxx"
        headers.clear()
    first, second = store.read("t")
    assert (first.value, first.key, list(first.headers)) == (b"value", b"key", [("h", b"head")])
    assert second.value == b"value"


@pytest.mark.parametrize("linger_ms", [-1, -0.001, math.nan, math.inf, "1"])
def test_a_linger_that_means_nothing_is_refused(store: Store, linger_ms: Any) -> None:
    with pytest.raises(errors.Usage, match="linger_ms"):
        store.writer("t", linger_ms=linger_ms)
    assert store.topics() == []


def test_close_of_the_store_sends_what_its_writers_have_gathered(store_dir: Path) -> None:
    store = pspf.open(store_dir)
    writers = [store.writer("t", linger_ms=60_000) for _ in range(3)]
    tickets = [writer.append(b"%d" % n) for n, writer in enumerate(writers)]
    store.close()
    assert all(ticket.done and ticket.error is None for ticket in tickets)
    with pytest.raises(errors.Closed):
        writers[0].append(b"late")
    for writer in writers:
        writer.close()
    with pspf.open(store_dir) as again:
        assert sorted(value or b"" for value in values(again)) == [b"0", b"1", b"2"]


def test_close_of_the_store_tells_what_went_wrong_with_the_gathered(store_dir: Path) -> None:
    store = pspf.open(store_dir)
    bad, good = (store.writer(name, linger_ms=60_000, create=False) for name in made(store, "gone", "t"))
    ticket = bad.append(b"lost")
    good.append(b"kept")
    store.delete_topic("gone")
    with pytest.raises(errors.NoSuchTopic):
        store.close()
    assert isinstance(ticket.error, errors.NoSuchTopic)
    with pspf.open(store_dir) as again:
        assert values(again) == [b"kept"]


def made(store: Store, *names: str) -> tuple[str, ...]:
    for name in names:
        store.create_topic(name)
    return names


def test_the_store_does_not_keep_writers_that_nobody_has_any_more(store: Store) -> None:
    from pspf.store.writer import Writer

    for _ in range(100):
        store.writer("t", linger_ms=60_000)
    gc.collect()
    assert sum(isinstance(thing, Writer) for thing in gc.get_objects()) < 50
