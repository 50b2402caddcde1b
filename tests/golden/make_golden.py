"""Write the golden store of this version: tests/golden/VERSION/, a store and every record that is in it.

    .venv-dev/bin/python tests/golden/make_golden.py

Stores of every released version are read by every later one, so what lies here is never written anew: an
existing version is refused. The store is made on a simulated disk with a fixed clock and known ids, so that
it can hold what only a crash leaves. ``expected.json`` says what went in, not what came out; only the kinds
of findings are what ``verify`` of this version says.

``store.tar.gz`` is an archive since git keeps neither modes nor empty directories.
"""

import base64
import gzip
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Run as a script, it is this checkout whose store is made, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pspf import __version__, errors
from pspf.format import batch, segment, slots
from pspf.format.batch import HEADER_BYTES
from pspf.model import TopicConfig
from pspf.store import open as store_format
from pspf.store import topics as topic_format
from pspf.store.feed import FeedOptions, feed
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing import SimDisk
from pspf.testing.faults import Killed
from tests.support_fuzz import known_random

HERE = Path(__file__).resolve().parent
TIME_MS = 1_700_000_000_000
STORE = "/store"
FORMATS = {
    "store.toml": store_format.FORMAT_VERSION,
    "topic.toml": topic_format.FORMAT_VERSION,
    "segment": segment.VERSION,
    "batch": batch.VERSION,
    "slots": slots.VERSION >> 24,
}
Pairs = list[tuple[str, bytes | None]]

LINES = (
    b"first\n\ndritte: \xc3\xa4\xc3\xb6\xc3\xbc\n\xff\xfe is no UTF-8\n{}\nthe last one, without a newline"
)
FLIGHTS = b"".join(b"UA%d,%d minutes late\n" % (number, 7 * number) for number in range(40))
MORE_FLIGHTS = b"AA1,on time\n"
"""What is appended behind ``FLIGHTS`` when a test goes on with the producer."""


def version() -> str:
    """Minor releases may write something else."""
    return ".".join(__version__.split(".")[:2])


def packed(data: bytes | None) -> Any:
    """Bytes in JSON: a string where they are UTF-8, else base64; long repetitions as such."""
    if data is None:
        return None
    for size in (1, 10):
        if len(data) > 200 and data == data[:size] * (len(data) // size):
            return {"repeat": data[:size].decode(), "times": len(data) // size}
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def unpacked(value: Any) -> bytes | None:
    """The inverse of :func:`packed`."""
    if isinstance(value, dict):
        if "base64" in value:
            return base64.b64decode(value["base64"])
        return bytes(value["repeat"].encode() * value["times"])
    return None if value is None else str(value).encode()


class Story:
    """Appends to a simulated disk, and the records that must be read from it."""

    def __init__(self) -> None:
        self.disk = SimDisk(clock_ns=TIME_MS * 1_000_000)
        self.topics: dict[str, dict[str, list[Any]]] = {}
        self.after: dict[str, dict[str, list[Any]]] = {}
        """What recovery adds: written and whole, but not published when the process died."""

    @contextmanager
    def store(self) -> Iterator[Store]:
        with open_store(STORE, disk=self.disk) as store:
            yield store

    def create(self, store: Store, name: str, **settings: Any) -> None:
        store.create_topic(name, TopicConfig(**settings))
        self.topics[name] = {str(n): [] for n in range(settings.get("partitions", 1))}

    def note(
        self,
        topic: str,
        offset: int,
        value: bytes | None,
        key: bytes | None = None,
        time_ms: int = TIME_MS,
        headers: Pairs | None = None,
        partition: int = 0,
        later: bool = False,
    ) -> None:
        named = [[name.encode("utf-8", "surrogateescape").hex(), packed(v)] for name, v in headers or []]
        into = self.after.setdefault(topic, {}) if later else self.topics[topic]
        into.setdefault(str(partition), []).append([offset, time_ms, packed(key), packed(value), named])

    def append(
        self, store: Store, topic: str, value: bytes | None, time_ms: int = TIME_MS, **more: Any
    ) -> None:
        """One record; ``more`` is passed on."""
        row = store.append(topic, value, timestamp_ms=time_ms, **more)
        known = {name: more[name] for name in ("key", "headers") if name in more}
        self.note(topic, row.first, value, time_ms=time_ms, partition=row.partition, **known)

    def feed(self, store: Store, topic: str, data: bytes, **options: Any) -> None:
        """Input as the command reads it, from a file."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            feed(store, topic, [file.name], FeedOptions(timestamp_ms=TIME_MS, **options))

    def segment_of(self, topic: str, base: int = 0) -> Any:
        return self.disk._file_at(f"{STORE}/topics/{topic}/0/{base:020d}.log")


def plain_topics(story: Story) -> None:
    """Topics that are closed as they should be."""
    with story.store() as store:
        story.create(store, "empty", partitions=2)
        story.create(store, "lines")
        story.feed(store, "lines", LINES)
        for offset, line in enumerate(LINES.split(b"\n")):
            story.note("lines", offset, line)
        for name in ("sync", "interval", "os"):
            story.create(store, name, durability=name, preallocate=name != "os", interval_ms=50)
            for number in range(3):
                story.append(store, name, b"%s %d" % (name.encode(), number))
        every_field(story, store)
        story.create(store, "zstd", compression="zstd")
        for number in range(3):
            values: list[bytes | None] = [b"GET /page/%d 200" % (number * 10 + i) for i in range(10)]
            values[number] = None
            (row,) = store.append_many("zstd", values, timestamps_ms=TIME_MS, headers=[("host", b"web1")])
            for i, value in enumerate(values):
                story.note("zstd", row.first + i, value, headers=[("host", b"web1")])
        story.create(store, "rolled", segment_bytes=700_000)
        for number in range(130):
            story.append(store, "rolled", b"%09d " % number * 1_000)
        story.create(store, "preserved")
        for offset in (5, 6, 100):
            envelope = {"value": f"kept at {offset}", "offset": offset, "partition": 0}
            line = json.dumps(envelope).encode() + b"\n"
            story.feed(store, "preserved", line, json=True, preserve=True)
            story.note("preserved", offset, f"kept at {offset}".encode())
        producers(story, store)


def every_field(story: Story, store: Store) -> None:
    """Keys, headers, times, nulls and empty ones, over three partitions."""
    story.create(store, "fields", partitions=3)
    headers: Pairs = [("a", b"1"), ("a", None), ("", b""), ("\udcff\udcfe", b"\x00\xff")]
    for time_ms in (TIME_MS, -86_400_000, -(1 << 63), (1 << 63) - 1, 0):
        for key in (b"k1", b"", b"\xff key", b"another", None):
            for value in (b"value", b"", None, b"two\nlines", b"\x00\xff"):
                more: dict[str, Any] = {"headers": headers} if value == b"" else {}
                partition = 2 if key is None else None
                story.append(store, "fields", value, key=key, partition=partition, time_ms=time_ms, **more)
    columns: dict[str, Any] = {
        "keys": [b"many", None, b""],
        "timestamps_ms": [TIME_MS + 5, TIME_MS, TIME_MS + 70_000],
        "headers": [("shared", None)],
    }
    values: list[bytes | None] = [b"a" * 300, None, b""]
    (row,) = store.append_many("fields", values, partition=1, **columns)
    for i, value in enumerate(values):
        key, time_ms = columns["keys"][i], columns["timestamps_ms"][i]
        story.note("fields", row.first + i, value, key, time_ms, columns["headers"], 1)


def producers(story: Story, store: Store) -> None:
    """One that counts, and one that reads a file, which is known by its position."""
    story.create(store, "counted")
    for sequence in (0, 1, 1, 2):
        row = store.append(
            "counted", b"%d" % sequence, producer="me", sequence=sequence, timestamp_ms=TIME_MS
        )
        if not row.duplicate:
            story.note("counted", row.first, b"%d" % sequence)
    story.append(store, "counted", b"somebody else's", producer="you", sequence=0)
    story.create(store, "flights", partitions=2)
    story.feed(store, "flights", FLIGHTS, producer="nightly")
    for offset, line in enumerate(FLIGHTS.splitlines()):
        story.note("flights", offset, line)


def taken_back(story: Story) -> None:
    """A power cut takes what durability ``os`` had not synced; a new epoch begins."""
    with story.store() as store:
        story.create(store, "taken-back", durability="os", preallocate=False)
        story.append(store, "taken-back", b"synced at the close")
    story.disk.sync_all()
    store = open_store(STORE, disk=story.disk)
    store.append("taken-back", b"lost", timestamp_ms=TIME_MS)
    # In the cut, `commit` reached the disk before the records did.
    story.disk._file_at(f"{STORE}/topics/taken-back/0/commit").sync()
    states = story.disk.crash_states(0, 50, "ordered")
    wanted = f"{STORE}/topics/taken-back/0/{0:020d}.log"
    story.disk = next(state for state in states if b"lost" not in (state.tree()[wanted] or b""))
    with story.store() as store:
        story.append(store, "taken-back", b"of the next epoch")


def failures(story: Story) -> None:
    """Syncs that fail, and damage that was met and passed."""
    with story.store() as store:
        for name in ("healed", "poisoned", "gap", "damaged"):
            story.create(store, name)
            for number in range(3):
                story.append(store, name, b"%s %d" % (name.encode(), number))
    for name in ("healed", "poisoned"):
        fault = story.disk.fail("fdatasync", 0, name=".log")
        store = open_store(STORE, disk=story.disk)
        try:
            store.append(name, b"never acknowledged", timestamp_ms=TIME_MS)
            raise AssertionError("the sync did not fail")
        except errors.IOFailed:
            assert fault.hits == 1
        story.disk.kill()
        story.disk = story.disk.copy()
        if name == "healed":
            with story.store() as store:
                story.append(store, name, b"after the heal")
    # A damaged body leaves the log as it is; behind a damaged header of the last batch a new segment begins.
    for name, back in (("damaged", 0), ("gap", 100)):
        del story.topics[name]["0"][2]
        content = story.segment_of(name).cache
        content[content.rindex(b"%s 2" % name.encode()) - back] ^= 1
        with story.store() as store:
            story.append(store, name, b"behind the damage")


def crashes(story: Story) -> None:
    """Processes that died: zeros ahead, a batch that nobody published, and a torn one."""
    for name in ("zeros", "unpublished", "torn"):
        with story.store() as store:
            story.create(store, name)
            story.append(store, name, b"%s 0" % name.encode())
        store = open_store(STORE, disk=story.disk)
        story.append(store, name, b"%s 1" % name.encode())
        if name == "unpublished":
            story.disk.stop_behind("pwritev", ".log")
            try:
                store.append(name, b"written, not published", timestamp_ms=TIME_MS)
            except Killed:
                pass
            assert story.disk.dead is not None
            story.note(name, 2, b"written, not published", later=True)
        story.disk.kill()
        story.disk = story.disk.copy()
        if name == "torn":
            content = story.segment_of(name).cache
            at = content.rindex(b"torn 1") + len(b"torn 1\n")
            content[at : at + HEADER_BYTES - 20] = content[4096 : 4096 + HEADER_BYTES - 20]


def whole_story() -> Story:
    """Everything, in an order in which no step disturbs what an earlier one left."""
    story = Story()
    with known_random(1):
        taken_back(story)
        plain_topics(story)
        failures(story)
        crashes(story)
    return story


def archive(story: Story) -> bytes:
    """The files, modes included, as the same bytes each time."""
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, content in story.disk.tree().items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.mtime = TIME_MS // 1_000
            entry.mode = 0o700 if content is None else 0o600
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            tar.addfile(entry, io.BytesIO(content or b""))
    return out.getvalue()


def shows_everything(story: Story) -> None:
    """Nothing that the format can hold was forgotten: kinds of batches and segments, codecs, an index."""
    kinds, codecs, reasons, lengths, zeros = set(), set(), set(), set(), False
    for name, content in story.disk.tree().items():
        if content and name.endswith(".index"):
            lengths.add(len(content))
        if not content or not name.endswith(".log"):
            continue
        header = segment.parse_segment(content)
        reasons.add(header.reason)
        at = segment.SEGMENT_HEADER_BYTES
        while not batch.header_fault(content, at, header.segment_id, at):
            one = batch.parse_header(content, at)
            kinds.add(one.kind)
            codecs.add(one.codec)
            at += one.size
        zeros = zeros or (at < len(content) and not any(content[at:]))
    known = {value for name, value in vars(batch).items() if name.startswith("KIND_")}
    assert kinds == known - {batch.KIND_KAFKA}, kinds
    assert codecs == {batch.CODEC_NONE, batch.CODEC_ZSTD} and zeros and max(lengths) >= 80
    assert reasons == {
        segment.REASON_FIRST,
        segment.REASON_ROLL,
        segment.REASON_HEAL,
        segment.REASON_DAMAGE,
    }, reasons


def findings(story: Story, recovered: bool) -> list[list[Any]]:
    """What verify says: topic, partition, kind, severity."""
    with open_store(STORE, disk=story.disk.copy(), read_only=not recovered) as store:
        if recovered:
            recover(store)
        return [[f.topic, f.partition, f.kind, f.severity] for f in store.verify().findings]


def recover(store: Store) -> None:
    """Open every partition that exists for writing."""
    for name in store.topics():
        topic = store.topic(name)
        for partition in range(topic.config.partitions):
            if store.disk.exists(str(partition), topic.dir_fd):
                store.partition_writer(topic, partition)


def make(target: Path) -> None:
    """Write store and expectations into the directory ``target``, which must not be there."""
    story = whole_story()
    shows_everything(story)
    expected = {
        "pspf": __version__,
        "formats": FORMATS,
        "records": story.topics,
        "adopted": story.after,
        "findings": findings(story, recovered=False),
        "findings_after_recovery": findings(story, recovered=True),
    }
    target.mkdir()
    (target / "store.tar.gz").write_bytes(archive(story))
    text = json.dumps(expected, ensure_ascii=False, separators=(",", ":")).replace("],[", "],\n[")
    (target / "expected.json").write_text(text + "\n", encoding="utf-8")


def main() -> int:
    target = HERE / version()
    if target.exists():
        print(f"{target} is there: what a version wrote is never written anew", file=sys.stderr)
        return 1
    make(target)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
