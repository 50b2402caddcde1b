"""``--key`` after partitions were added: the key is found wherever an earlier count placed it."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

import pspf as library
from pspf import errors
from pspf.model import TopicConfig
from pspf.store.store import Store, partition_of
from tests.conftest import Pspf

COUNTS = (1, 2, 5, 16)
KEYS = [f"key{n}" for n in range(12)]


def filled(store: Store) -> None:
    """A record of each key for each count."""
    for count in COUNTS:
        if count == COUNTS[0]:
            store.create_topic("t", TopicConfig(partitions=count))
        else:
            store.add_partitions("t", count)
        for key in KEYS:
            store.append("t", f"{key} {count}", key=key)


def of(store: Store, key: str, **options: Any) -> list[str]:
    return [(record.value or b"").decode() for record in store.read("t", key=key, **options)]


def test_key_finds_the_records_that_earlier_counts_placed(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        filled(store)
        for key in KEYS:
            assert sorted(of(store, key)) == sorted(f"{key} {count}" for count in COUNTS)
        store.rename_topic("t", "u")
        store.rename_topic("u", "t")
        store.alter_topic("t", durability="os")
    with library.open(str(store_dir), read_only=True) as store:
        for key in KEYS:
            assert sorted(of(store, key)) == sorted(f"{key} {count}" for count in COUNTS)
            last = {partition_of(key.encode(), COUNTS[-1])}
            assert {record.partition for record in store.read("t", key=key, partitions=last)} == last
    with library.open(str(store_dir)) as store:
        assert store.verify().ok


def test_key_reads_no_partition_where_the_key_cannot_be(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        filled(store)
        wanted = {partition_of(b"key3", count) for count in COUNTS}
        for partition in set(range(COUNTS[-1])) - wanted:
            for segment in (store_dir / "topics" / "t" / str(partition)).glob("*.log"):
                segment.write_bytes(b"damaged")
        assert len(of(store, "key3")) == len(COUNTS)


def test_a_follower_of_a_key_finds_it_in_every_partition(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store, library.open(str(store_dir)) as other:
        store.create_topic("t")
        store.append("t", "first", key="key3")
        found = []
        for record in store.tail("t", None, True, key="key3"):
            found.append(record.value)
            if record.value == b"first":
                other.add_partitions("t", 7)
                other.append("t", "placed by one", key="key3", partition=0)
            elif record.value == b"placed by one":
                other.append("t", "placed by seven", key="key3")
            else:
                break
    assert found == [b"first", b"placed by one", b"placed by seven"]


def test_the_counts_stand_in_topic_toml(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        filled(store)
        text = (store_dir / "topics/t/topic.toml").read_text()
        assert tomllib.loads(text)["partition_counts"] == "1,2,5"
        store.create_topic("u", TopicConfig(partitions=3))
        assert "partition_counts" not in (store_dir / "topics/u/topic.toml").read_text()


@pytest.mark.parametrize("keep", [True, False])
def test_the_counts_stay_when_settings_are_taken_in_from_a_file(store_dir: Path, keep: bool) -> None:
    with library.open(str(store_dir)) as store:
        filled(store)
        lines = (store_dir / "topics/t/topic.toml").read_text().splitlines(keepends=True)
        kept = [line for line in lines if keep or not line.startswith("partition_counts")]
        changed = store_dir.parent / "changed.toml"
        changed.write_text("".join(kept).replace("partitions = 16", "partitions = 20"))
        store.alter_topic_from("t", str(changed))
        for key in KEYS:
            store.append("t", f"{key} 20", key=key)
            assert sorted(of(store, key)) == sorted(f"{key} {count}" for count in (*COUNTS, 20))


@pytest.mark.parametrize("counts", ["0", "x", "1,,2", "-1", "1, 2", "99999"])
def test_counts_that_no_topic_can_have_had_are_refused(store_dir: Path, counts: str) -> None:
    with library.open(str(store_dir)) as store:
        store.create_topic("t")
        path = store_dir / "topics/t/topic.toml"
        changed = store_dir.parent / "changed.toml"
        changed.write_text(path.read_text() + f'partition_counts = "{counts}"\n')
        before = path.read_bytes()
        with pytest.raises(errors.BadConfig, match="partition_counts"):
            store.alter_topic_from("t", str(changed))
        assert path.read_bytes() == before


def test_cat_and_tail_find_a_key_after_add_partitions(pspf: Pspf) -> None:
    lines = b"".join(b"key%d:old\n" % n for n in range(12))
    assert pspf("append", "t", "-K", ":", input=lines).returncode == 0
    assert pspf("topic", "add-partitions", "-n", "8", "t").returncode == 0
    assert pspf("append", "t", "-K", ":", input=lines.replace(b"old", b"new")).returncode == 0
    for n in range(12):
        assert pspf("cat", "t", "--key", f"key{n}").stdout == b"old\nnew\n"
        assert pspf("tail", "t", "--key", f"key{n}").stdout == b"old\nnew\n"
    for command in ("cat", "tail"):
        assert b"earlier number of partitions" in b" ".join(pspf(command, "--help").stdout.split())
