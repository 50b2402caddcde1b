"""Compressed bodies: no bomb goes off, nothing but whole frames is taken, and threads do not meet in one."""

import pytest
from hypothesis import strategies as st

from pspf.format.columns import BadBody, Columns
from pspf.model import MAX_BATCH_BODY
from tests.support_fuzz import little_memory
from tests.test_format_fuzz import forged, holds, pieces, short


def bomb(content_bytes: int, said: int | None) -> bytes:
    """A frame of many zeros that says how many: truthfully, not at all (None), or with a lie."""
    zstandard = pytest.importorskip("zstandard")
    size = -1 if said is None else content_bytes
    compressor = zstandard.ZstdCompressor(write_content_size=said is not None).compressobj(size=size)
    chunk = bytes(1 << 20)
    parts = [compressor.compress(chunk) for _ in range(content_bytes >> 20)]
    frame: bytes = b"".join(parts) + compressor.flush()
    if said not in (None, content_bytes):
        place = frame.index(content_bytes.to_bytes(4, "little"))
        frame = frame[:place] + said.to_bytes(4, "little") + frame[place + 4 :]
    return frame


@pytest.mark.parametrize("said", ["truth", "nothing", "lie"])
def test_a_decompression_bomb_is_refused_within_the_declared_length(said: str) -> None:
    content = 1 << 30
    frame = bomb(content, {"truth": content, "nothing": None, "lie": 1000}[said])
    assert len(frame) < 1 << 18
    header = forged(count=1, codec=1, plain_length=1000)
    with little_memory(), pytest.raises(BadBody):
        Columns(header, frame)


def test_arbitrary_bytes_are_no_compressed_body() -> None:
    zstandard = pytest.importorskip("zstandard")
    from pspf.format.zstd import decompress

    def prop(data: bytes, content: bytes, changes: list[tuple[int, int]], tail: bytes, length: int) -> None:
        frame = zstandard.compress(content)
        assert decompress(frame, len(content)) == content
        if tail and content:
            with pytest.raises(BadBody):
                decompress(frame + tail, len(content))
        damaged = bytearray(frame)
        for at, value in changes:
            damaged[at % len(damaged)] = value
        for raw, wanted in ((data, length), (bytes(damaged) + tail, len(content)), (frame, length)):
            try:
                assert len(decompress(raw, wanted)) == wanted
            except BadBody:
                pass

    change = st.tuples(st.integers(0, 100), st.integers(0, 255))
    magic = st.binary(max_size=40).map(lambda data: b"\x28\xb5\x2f\xfd" + data)
    lengths = st.integers(0, 100) | st.just(MAX_BATCH_BODY)
    holds(prop, st.binary(max_size=50) | magic, pieces, st.lists(change, max_size=3), short, lengths)


def test_threads_do_not_mix_up_their_compressed_bodies() -> None:
    # One Zstandard context used by two threads at once gives wrong bytes, without an error.
    pytest.importorskip("zstandard")
    from concurrent.futures import ThreadPoolExecutor

    from pspf.format.zstd import compress, decompress

    def work(number: int) -> int:
        content = bytes([number]) * 300_000 + number.to_bytes(4, "little") * 50_000
        return sum(decompress(compress(content), len(content)) != content for _ in range(60))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [0] * 8
