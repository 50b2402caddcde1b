"""Topics that are damaged, renamed under a reader, or no topics: what still works, and what is said."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import pspf
from pspf import errors
from pspf.format.batch import HEADER_BYTES
from pspf.model import TopicConfig
from pspf.store.store import Store
from tests.conftest import Pspf
from tests.support_damage import TOPIC, base, batches, filled, flip, many_segments, segments, tear, verify


def rows(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def topic_dir(pspf: Pspf, name: str = "t") -> Path:
    return pspf.home / ".local/share/pspf/topics" / name


def damage_settings(pspf: Pspf) -> None:
    (topic_dir(pspf) / "topic.toml").write_bytes(b"nonsense")
    for segment in topic_dir(pspf).glob("0/*.log"):
        segment.write_bytes(b"nonsense")


def take_segment(pspf: Pspf) -> None:
    for segment in topic_dir(pspf).glob("0/*.log"):
        segment.unlink()


def damage_commit(pspf: Pspf) -> None:
    (topic_dir(pspf) / "0/commit").write_bytes(b"")
    (topic_dir(pspf) / "0/lock").write_bytes(b"")


def take_commit(pspf: Pspf) -> None:
    (topic_dir(pspf) / "0/commit").unlink()


HARM = {
    "settings": damage_settings,
    "segment": take_segment,
    "commit": damage_commit,
    "no commit": take_commit,
}


# -- deleting


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_topic_can_be_deleted(pspf: Pspf, harm: str) -> None:
    pspf("append", "t", input=b"x\n")
    pspf("append", "u", input=b"x\n")
    HARM[harm](pspf)
    ran = pspf("topic", "delete", "--dry-run", "t")
    assert ran.returncode == 0, ran.stderr
    if harm in ("settings", "segment"):
        assert ran.stdout.startswith(b"would delete topic t: cannot tell how much"), ran.stdout
    ran = pspf("-v", "topic", "delete", "--yes", "t")
    assert ran.returncode == 0, ran.stderr
    assert b"deleted topic t" in ran.stderr
    assert not topic_dir(pspf).exists()
    assert pspf("cat", "u").stdout == b"x\n"
    assert {path.name for path in topic_dir(pspf).parent.iterdir()} == {"u"}


def plant_file(topic: Path) -> None:
    (topic / "7").write_text("not a partition")


def plant_link(topic: Path) -> None:
    (topic / "7").symlink_to("/tmp")


def plant_directory(topic: Path) -> None:
    (topic / "7/commit").mkdir(parents=True)
    (topic / "7/lock").mkdir()


@pytest.mark.parametrize("plant", [plant_file, plant_link, plant_directory])
def test_a_stray_file_does_not_stop_a_delete_behind_its_commit_point(pspf: Pspf, plant: Any) -> None:
    pspf("append", "t", input=b"x\n")
    plant(topic_dir(pspf))
    (topic_dir(pspf).parent / ".del-stray").write_text("no directory")
    ran = pspf("topic", "delete", "--yes", "t")
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert list(topic_dir(pspf).parent.iterdir()) == []
    assert pspf("topic", "create", "t").returncode == 0


@pytest.mark.parametrize("name", ["lock", "commit"])
def test_a_topic_with_a_record_of_a_later_version_can_be_deleted(store_dir: Path, name: str) -> None:
    filled(store_dir, 1)
    file = store_dir / "topics" / TOPIC / "0" / name
    data = bytearray(file.read_bytes())
    for at in (0, 512)[: 1 + (name == "commit")]:
        data[at + (7 if name == "lock" else 15)] = 2  # the top byte of the flags
        data[at + 60 : at + 64] = crc32(data[at : at + 60]).to_bytes(4, "little")
    file.write_bytes(data)
    with pspf.open(str(store_dir)) as store:
        store.delete_topic(TOPIC)
        assert store.topics() == [] == list((store_dir / "topics").iterdir())
        store.create_topic(TOPIC)


# -- listing


def test_du_shows_the_others_when_one_topic_is_damaged(pspf: Pspf) -> None:
    for name in ("s", "t", "u"):
        pspf("append", name, input=b"x\n")
    damage_settings(pspf)
    ran = pspf("du", "--json")
    assert ran.returncode == 65
    assert [row["topic"] for row in rows(ran.stdout)] == ["s", "u"]
    assert ran.stderr.startswith(b"pspf: cannot open topic 't'")
    ran = pspf("du", "missing", "u", "--json")
    assert ran.returncode == 66
    assert [row["topic"] for row in rows(ran.stdout)] == ["u"]


def test_what_is_no_topic_is_not_listed(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    topics = topic_dir(pspf).parent
    (topics / "a-file").write_text("x")
    (topics / "bad name").mkdir()
    (topics / "a-link").symlink_to("t")
    with pspf_open(pspf) as store:
        assert store.topics() == ["t"]
    for command in ("ls", "du"):
        ran = pspf(command, "--json")
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert [row["topic"] for row in rows(ran.stdout)] == ["t"]


def pspf_open(command: Pspf) -> Store:
    return pspf.open(command.home / ".local/share/pspf")


# -- settings from a file


def test_settings_of_another_topic_do_not_give_two_topics_one_id(store_dir: Path) -> None:
    with pspf.open(store_dir) as store:
        store.create_topic("a", TopicConfig(durability="os"))
        b = store.create_topic("b")
        store.alter_topic_from("b", str(store_dir / "topics/a/topic.toml"))
        after = store.describe("b")
        assert after.config.durability == "os"
        assert (after.topic_id, after.created_ms) == (b.topic_id, b.created_ms)
        assert store.describe("a").topic_id != after.topic_id


def test_settings_of_another_topic_do_not_give_its_id_where_nothing_else_is_known(store_dir: Path) -> None:
    with pspf.open(store_dir) as store:
        a = store.create_topic("a")
        store.create_topic("b")
        (store_dir / "topics/b/topic.toml").unlink()
        store.alter_topic_from("b", str(store_dir / "topics/a/topic.toml"))
        assert store.describe("b").topic_id != a.topic_id


def test_settings_from_a_file_do_not_take_partitions_away(store_dir: Path) -> None:
    with pspf.open(store_dir) as store:
        store.create_topic("t")
        before = (store_dir / "topics/t/topic.toml").read_text()
        store.append("t", b"v")
        store.add_partitions("t", 3)
        (store_dir / "file").write_text(before)
        with pytest.raises(errors.BadConfig, match="3 partitions"):
            store.alter_topic_from("t", str(store_dir / "file"))
        assert store.partition_count("t") == 3


def test_a_settings_file_that_is_missing_or_lacks_its_version(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    ran = pspf("topic", "alter", "t", "--from", "not-there")
    assert ran.returncode == 66
    assert ran.stderr == b"pspf: cannot alter topic 't': no such file (not-there)\n"
    pspf("topic", "create", "u")
    text = (topic_dir(pspf, "u") / "topic.toml").read_text()
    (topic_dir(pspf, "u") / "topic.toml").unlink()
    (pspf.home / "file").write_text(text.replace("format_version = 1\n", ""))
    ran = pspf("topic", "alter", "u", "--from", "file")
    assert ran.returncode == 65
    assert b"format_version is missing" in ran.stderr and b"None" not in ran.stderr


# -- repair


def test_repair_that_leaves_damage_says_so_and_exits_65(pspf: Pspf) -> None:
    store_path = pspf.home / ".local/share/pspf"
    filled(store_path, 3)
    flip(segments(store_path)[0], batches(segments(store_path)[0])[1].position + HEADER_BYTES + 25)
    for words in (["--dry-run"], []):
        ran = pspf("repair", *words, TOPIC)
        assert ran.returncode == 65
        assert b"left alone" in ran.stdout and b"offsets 1 to 1" in ran.stdout
        ran = pspf("repair", *words, "--json", TOPIC)
        assert ran.returncode == 65
        (row,) = rows(ran.stdout)
        assert (row["topic"], row["partition"], row["done"], row["actions"]) == (TOPIC, 0, False, [])
        (left,) = row["left"]
        assert (left["severity"], left["first_offset"], left["last_offset"]) == ("damage", 1, 1)
    with pspf_open(pspf) as store:
        report = store.repair(TOPIC, 0)
        assert report.actions == [] and [f.first_offset for f in report.left] == [1]
        assert "left=" in repr(report)


def test_repair_with_nothing_to_do_exits_0(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    ran = pspf("repair", "--json", "t")
    assert ran.returncode == 0
    assert rows(ran.stdout) == [{"topic": "t", "partition": 0, "done": False, "actions": [], "left": []}]


# -- following


def test_a_follower_of_a_renamed_topic_is_told_its_new_name(store_dir: Path) -> None:
    with pspf.open(store_dir) as store, pspf.open(store_dir) as other:
        store.append("t", b"v")
        tail = store.tail("t")
        assert next(tail).value == b"v"
        other.rename_topic("t", "u")
        with pytest.raises(errors.TopicDeleted, match="renamed to 'u'") as caught:
            next(tail)
        assert "pspf tail -f u" in caught.value.hint


def test_a_follower_does_not_go_on_in_another_topic_of_the_same_name(store_dir: Path) -> None:
    with pspf.open(store_dir) as store, pspf.open(store_dir) as other:
        store.append("t", b"v")
        tail = store.tail("t")
        assert next(tail).value == b"v"
        other.rename_topic("t", "u")
        other.create_topic("t", TopicConfig(partitions=2))
        other.append("t", b"not ours", partition=1)
        seen: list[str] = []

        def follow() -> None:
            try:
                seen.append(repr(next(tail)))
            except errors.TopicDeleted as error:
                seen.append(str(error))

        thread = threading.Thread(target=follow)
        thread.start()
        thread.join(30)
        assert seen and "renamed to 'u'" in seen[0]


# -- many partitions


def limited(pspf: Pspf, soft: int, hard: int, *words: str) -> subprocess.CompletedProcess[bytes]:
    import resource

    return pspf(*words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))


@pytest.fixture
def wide(pspf: Pspf) -> Pspf:
    """A topic of more partitions than the usual limit of descriptors lets be open at once, made small."""
    pspf("topic", "create", "-n", "100", "--durability", "os", "t")
    with pspf_open(pspf) as store:
        for number in range(100):
            store.append("t", b"%d" % number, partition=number, timestamp_ms=number)
    return pspf


def test_more_partitions_than_descriptors_are_read(wide: Pspf) -> None:
    wanted = b"".join(b"%d\n" % n for n in range(100))
    hard = os.sysconf("SC_OPEN_MAX")
    for words in (["cat", "t"], ["tail", "-n", "200", "t"]):
        ran = limited(wide, 64, max(hard, 1024), *words)
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert ran.stdout == wanted


def test_partitions_one_after_the_other_need_no_descriptors(wide: Pspf) -> None:
    wanted = b"".join(b"%d\n" % n for n in range(100))
    for words in (["cat", "--by-partition", "t"], ["tail", "-n", "200", "--by-partition", "t"]):
        ran = limited(wide, 64, 64, *words)
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert ran.stdout == wanted
    assert limited(wide, 64, 64, "ls").returncode == 0
    assert limited(wide, 64, 64, "verify").returncode == 0


def test_too_many_partitions_are_told_with_the_limit_that_would_do(wide: Pspf) -> None:
    ran = limited(wide, 64, 64, "cat", "t")
    assert ran.returncode == 74
    error, hint = ran.stderr.decode().splitlines()
    assert error.startswith("pspf: cannot read t/") and "too many open files" in error
    number = int(hint.partition("ulimit -n ")[2].split()[0].rstrip(","))
    assert "--by-partition" in hint
    ran = limited(wide, number, number, "cat", "t")
    assert ran.returncode == 0, ran.stderr


# -- what verify notes


def test_a_sealed_segment_is_not_called_unpublished_where_its_successor_is_missing(store_dir: Path) -> None:
    *_, sealed, active = many_segments(store_dir)
    active.unlink()
    found = [(f.kind, f.first_offset, f.last_offset) for f in verify(store_dir) if f.kind != "leftover"]
    assert found == [("segment-missing", base(active), 699)]
    tear(sealed, sealed.stat().st_size - 10)
    lost = [(f.kind, f.first_offset, f.last_offset) for f in verify(store_dir) if f.severity == "damage"]
    assert (lost[0][1:], lost[-1]) == (
        (base(active) - 1, base(active) - 1),
        ("segment-missing", base(active), 699),
    )


def test_a_commit_that_was_derived_anew_is_not_odd_for_ever(store_dir: Path) -> None:
    filled(store_dir, 5)
    commit = store_dir / "topics/t/0/commit"
    commit.write_bytes(os.urandom(1500))
    assert "commit" in {f.kind for f in verify(store_dir)}
    with pspf.open(store_dir) as store:
        assert store.repair(TOPIC, 0).done
    assert verify(store_dir) == []
    with pspf.open(store_dir) as store:
        store.append(TOPIC, b"v")
        store.append(TOPIC, b"v")
    assert verify(store_dir) == []


def test_findings_about_the_store_say_so(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    (topic_dir(pspf) / "stray").write_text("x")
    (topic_dir(pspf).parents[1] / "odd").write_text("x")
    said = pspf("verify").stdout.decode().splitlines()
    assert [line.split(": ")[:3] for line in said] == [
        ["note", "store", "foreign-file"],
        ["note", "t", "foreign-file"],
    ]
    with pspf_open(pspf) as store:
        assert [finding.place for finding in store.verify().findings] == ["store", "t"]
