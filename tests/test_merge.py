"""Merged order: a model that looks at one record at a time, against the merge of whole batches."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf import errors
from pspf.store.merge import Run
from pspf.store.reading import Stream, read_records
from pspf.store.select import Selection
from tests.fake_partitions import FakeReader, FakeStore, Row, cut, lines, raw_batch

Key = tuple[int, int, int]
"""Timestamp, partition, offset."""


def naive(partitions: list[list[Row]]) -> list[Key]:
    """Always the head with the least (timestamp, partition)."""
    at = [0] * len(partitions)
    out: list[Key] = []
    while True:
        heads = [
            (rows[i][0], p) for p, (rows, i) in enumerate(zip(partitions, at, strict=True)) if i < len(rows)
        ]
        if not heads:
            return out
        time, p = min(heads)
        out.append((time, p, at[p]))
        at[p] += 1


def drain(stream: Stream) -> list[Key]:
    found: list[Key] = []
    while (chunk := stream.next()) is not None:
        assert chunk.count > 0
        found += zip(chunk.timestamps(), chunk.partitions(), chunk.offsets(), strict=True)
    assert stream.finished
    return found


def stream_of(partitions: list[list[Row]], cuts: list[list[int]], **how: Any) -> Stream:
    readers = [FakeReader(p, cut(rows, cuts[p])) for p, rows in enumerate(partitions)]
    return Stream(FakeStore(*readers), "t", **how)  # type: ignore[arg-type]


few_times = st.lists(st.integers(0, 6), max_size=12)
wide_times = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=12)
ascending = st.lists(st.integers(0, 1000), max_size=12).map(sorted)
topics = st.lists(st.one_of(few_times, wide_times, ascending), min_size=1, max_size=4).map(
    lambda all_times: [[(time, None, b"v%d" % i) for i, time in enumerate(times)] for times in all_times]
)
cuttings = st.lists(st.lists(st.integers(1, 11), max_size=11), min_size=4, max_size=4)


@given(topics, cuttings)
def test_the_output_is_the_same_for_every_cut_into_batches(
    partitions: list[list[Row]], cuts: list[list[int]]
) -> None:
    assert drain(stream_of(partitions, cuts)) == naive(partitions)


@given(topics, cuttings, st.integers(0, 30))
def test_a_limit_counts_merged_records(
    partitions: list[list[Row]], cuts: list[list[int]], limit: int
) -> None:
    found = drain(stream_of(partitions, cuts, selection=Selection(limit=limit)))
    assert found == naive(partitions)[:limit]


@given(topics, cuttings, st.integers(0, 30))
def test_tail_gives_the_last_of_the_merged_output(
    partitions: list[list[Row]], cuts: list[list[int]], n: int
) -> None:
    wanted = naive(partitions)
    assert drain(stream_of(partitions, cuts, last=n)) == (wanted[-n:] if n else [])


@given(topics, cuttings, st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_tail_of_a_range_is_the_end_of_the_merged_range(
    partitions: list[list[Row]], cuts: list[list[int]], lo: int, hi: int, n: int
) -> None:
    lo, hi = sorted((lo, hi))
    selection = Selection(ranges=[f"{lo}:{hi}"])
    wanted = [(t, p, o + lo) for t, p, o in naive([rows[lo:hi] for rows in partitions])]
    assert drain(stream_of(partitions, cuts, selection=selection, last=n)) == (wanted[-n:] if n else [])


@given(topics, cuttings, st.integers(0, 30))
def test_plus_n_begins_with_the_nth_merged_record(
    partitions: list[list[Row]], cuts: list[list[int]], n: int
) -> None:
    assert drain(stream_of(partitions, cuts, from_nth=n)) == naive(partitions)[max(n - 1, 0) :]


@given(topics, cuttings)
def test_by_partition_gives_one_after_the_other(partitions: list[list[Row]], cuts: list[list[int]]) -> None:
    found = drain(stream_of(partitions, cuts, selection=Selection(by_partition=True)))
    assert [(p, o) for _, p, o in found] == [
        (p, o) for p, rows in enumerate(partitions) for o in range(len(rows))
    ]


@given(topics, cuttings, st.integers(0, 12), st.integers(0, 12))
def test_a_range_is_cut_out_of_batches_exactly(
    partitions: list[list[Row]], cuts: list[list[int]], lo: int, hi: int
) -> None:
    lo, hi = sorted((lo, hi))
    found = drain(stream_of(partitions, cuts, selection=Selection(ranges=[f"{lo}:{hi}"])))
    wanted = naive([rows[lo:hi] for rows in partitions])
    assert found == [(t, p, o + lo) for t, p, o in wanted]


@given(topics, cuttings, st.integers(0, 7), st.integers(0, 7))
def test_since_and_until_are_offsets_of_first_records(
    partitions: list[list[Row]], cuts: list[list[int]], since: int, until: int
) -> None:
    wanted = []
    for rows in partitions:
        lo = next((i for i, row in enumerate(rows) if row[0] >= since), len(rows))
        hi = next((i for i, row in enumerate(rows) if row[0] >= until), len(rows))
        wanted.append((lo, rows[lo : max(lo, hi)]))
    found = drain(stream_of(partitions, cuts, selection=Selection(since_ms=since, until_ms=until)))
    assert found == [(t, p, o + wanted[p][0]) for t, p, o in naive([rows for _, rows in wanted])]


keyed = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([None, b"", b"a", b"b"]), st.just(b"x")), max_size=12
)


@given(
    keyed, st.lists(st.integers(1, 11), max_size=11), st.sampled_from([b"", b"a", b"zz"]), st.integers(0, 6)
)
def test_a_key_gives_its_records_and_the_last_of_them(
    rows: list[Row], at: list[int], key: bytes, n: int
) -> None:
    wanted = [o for o, row in enumerate(rows) if row[1] == key]
    selection = Selection(key=key)
    assert [o for _, _, o in drain(stream_of([rows], [at], selection=selection))] == wanted
    assert [o for _, _, o in drain(stream_of([rows], [at], selection=selection, last=n))] == wanted[
        len(wanted) - min(n, len(wanted)) :
    ]


@given(keyed, keyed, cuttings, st.integers(0, 8))
def test_a_key_that_was_put_by_hand_is_found_where_one_looks(
    one: list[Row], two: list[Row], cuts: list[list[int]], n: int
) -> None:
    selection = Selection(key=b"a", partitions=[0, 1])
    whole = drain(stream_of([one, two], cuts, selection=selection))
    picked = [[(o, row) for o, row in enumerate(rows) if row[1] == b"a"] for rows in (one, two)]
    wanted = [(t, p, picked[p][i][0]) for t, p, i in naive([[row for _, row in rows] for rows in picked])]
    assert whole == wanted
    assert drain(stream_of([one, two], cuts, selection=selection, last=n)) == (wanted[-n:] if n else [])


def test_only_the_partition_of_a_key_is_read() -> None:
    readers = [FakeReader(p, cut([(1, b"k", b"v")], [])) for p in range(4)]
    store = FakeStore(*readers)
    drain(Stream(store, "t", Selection(key=b"k")))  # type: ignore[arg-type]
    assert [reader.reads > 0 for reader in readers] == [p == store.partition_of(b"k", 4) for p in range(4)]


def test_batches_that_do_not_overlap_leave_untouched() -> None:
    zero = [lines([b"a", b"b"], 0, 10), lines([b"e"], 2, 30)]
    one = [lines([b"c", b"d"], 0, 20), lines([b"f"], 2, 40)]
    stream = Stream(FakeStore(FakeReader(0, zero), FakeReader(1, one)), "t")  # type: ignore[arg-type]
    regions = []
    while (chunk := stream.next()) is not None:
        assert isinstance(chunk, Run)
        region = chunk.region()
        assert region is not None
        regions.append(bytes(region))
    assert regions == [b"a\nb\n", b"c\nd\n", b"e\n", b"f\n"]


def test_at_equal_times_the_lower_partition_goes_first() -> None:
    partitions: list[list[Row]] = [[(5, None, b"a")], [(5, None, b"b")], [(5, None, b"c")]]
    assert [p for _, p, _ in drain(stream_of(partitions, [[], [], []]))] == [0, 1, 2]


def test_gaps_in_the_offsets_are_kept() -> None:
    from pspf.format.encode import encode_records

    gap = raw_batch(encode_records([b"a", b"b", b"c"], None, [1, 9, 2], offset_deltas=[0, 3, 7]), 10)
    more = raw_batch(encode_records([b"d"], None, 1), 30)

    def stream(**how: Any) -> Stream:
        return Stream(FakeStore(FakeReader(0, [gap, more], log_start=10)), "t", **how)  # type: ignore[arg-type]

    assert [o for _, _, o in drain(stream())] == [10, 13, 17, 30]
    assert [o for _, _, o in drain(stream(selection=Selection(ranges=["11:17"])))] == [13]
    assert [o for _, _, o in drain(stream(selection=Selection(ranges=[":30"]), last=2))] == [13, 17]
    assert [o for _, _, o in drain(stream(selection=Selection(ranges=["-3"])))] == [13, 17, 30]
    assert [o for _, _, o in drain(stream(selection=Selection(ranges=["-3:-1"])))] == [13, 17]


def three_with_damage() -> FakeStore:
    rows: list[Row] = [(time, None, b"v") for time in range(9)]
    return FakeStore(
        FakeReader(0, cut(rows, [3, 6])),
        FakeReader(1, cut(rows, [3, 6]), broken=[3]),
        FakeReader(2, cut(rows, [4])),
    )


def test_a_damaged_partition_stops_and_the_others_go_on() -> None:
    stream = Stream(three_with_damage(), "t")  # type: ignore[arg-type]
    found = drain(stream)
    assert [sum(p == n for _, p, _ in found) for n in range(3)] == [9, 3, 9]
    assert [(error.offset, error.resume_offset) for error in stream.damage] == [(3, 6)]


def test_damage_is_stepped_over_when_that_is_wanted() -> None:
    stream = Stream(three_with_damage(), "t", Selection(skip_damaged=True))  # type: ignore[arg-type]
    found = drain(stream)
    assert [o for _, p, o in found if p == 1] == [0, 1, 2, 6, 7, 8]
    assert found == sorted(found) and len(stream.damage) == 1


def test_damage_behind_the_range_is_not_the_readers_business() -> None:
    stream = Stream(three_with_damage(), "t", Selection(ranges=[":3"]))  # type: ignore[arg-type]
    assert len(drain(stream)) == 9 and stream.damage == []


def test_the_last_records_behind_damage_are_given() -> None:
    stream = Stream(three_with_damage(), "t", Selection(partitions=[1]), last=2)  # type: ignore[arg-type]
    assert [o for _, _, o in drain(stream)] == [7, 8] and stream.damage == []


def test_a_library_reader_is_told_of_damage_after_everything_else() -> None:
    seen = []
    with pytest.raises(errors.Damaged):
        for record in read_records(three_with_damage(), "t"):  # type: ignore[arg-type]
            seen.append(record)
    assert len(seen) == 21
    told: list[errors.Damaged] = []
    kept = list(read_records(three_with_damage(), "t", on_damage=told.append, skip_damaged=True))  # type: ignore[arg-type]
    assert len(kept) == 24 and len(told) == 1


def test_columns_that_make_no_sense_under_a_good_check_are_damage() -> None:
    bad = lines([b"a", b"b"], 0, 1)
    bad.body = bad.body[:4]
    stream = Stream(FakeStore(FakeReader(0, [bad, lines([b"c"], 2, 1)])), "t", Selection(skip_damaged=True))  # type: ignore[arg-type]
    assert [o for _, _, o in drain(stream)] == [2]
    assert stream.damage[0].offset == 0 and stream.damage[0].resume_offset == 2


def test_what_is_appended_meanwhile_is_not_read() -> None:
    rows: list[Row] = [(1, None, b"v")] * 4
    reader = FakeReader(0, cut(rows, [1, 2, 3]), at_once=1, visible=2)
    stream = Stream(FakeStore(reader), "t")  # type: ignore[arg-type]
    first = stream.next()
    reader.visible = None
    assert first is not None and [first.offsets(), drain(stream)] == [[0], [(1, 0, 1)]]


def test_no_partition_is_read_ahead_by_more_than_one_read() -> None:
    rows: list[Row] = [(time, None, b"v") for time in range(40)]
    readers = [FakeReader(p, cut(rows, list(range(40))), at_once=1) for p in range(3)]
    stream = Stream(FakeStore(*readers), "t")  # type: ignore[arg-type]
    given_out = 0
    while (chunk := stream.next()) is not None:
        given_out += chunk.count
        assert sum(reader.reads for reader in readers) <= given_out + 3


def test_a_selection_and_its_arguments_are_not_given_together() -> None:
    with pytest.raises(errors.Usage):
        read_records(FakeStore(FakeReader(0, [])), "t", Selection(), limit=3)  # type: ignore[arg-type]


def test_an_empty_topic_ends_at_once() -> None:
    for how in ({}, {"last": 10}, {"from_nth": 3}, {"selection": Selection(key=b"k")}):
        assert drain(stream_of([[]], [[]], **how)) == []
