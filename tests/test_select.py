"""The grammar of -o, -p, --since and --until, and what it means in a partition."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf import errors
from pspf.cli.selecting import how_many
from pspf.store.select import Selection, parse_offsets, parse_partitions, parse_time, resolve
from tests.fake_partitions import FakeReader, Row, cut

NOW = 1_790_000_000_000


def partition(start: int = 10, count: int = 10) -> FakeReader:
    """Offsets ``start`` to ``start + count - 1``, their times ten times that."""
    rows: list[Row] = [((start + i) * 10, None, b"v") for i in range(count)]
    return FakeReader(0, cut(rows, [3, 4], base=start), log_start=start)


def found(*texts: str, notes: list[str] | None = None) -> tuple[int, int | None, int | None]:
    on_note = notes.append if notes is not None else None
    return resolve(Selection(ranges=texts), partition(), on_note)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "first", "end"),
    [
        ([], 10, None),
        (["15"], 15, None),
        (["12:15"], 12, 15),
        ([":15"], 10, 15),
        (["15:"], 15, None),
        (["+3"], 13, None),
        (["-3"], 17, None),
        (["-0"], 20, None),
        (["-99"], 10, None),
        (["start"], 10, None),
        (["beginning"], 10, None),
        (["stored"], 10, None),
        (["end"], 20, None),
        (["-5:-2"], 15, 18),
        (["+2:end"], 12, 20),
        (["@145"], 15, None),
        (["s@150"], 15, None),
        (["@999"], 20, None),
        (["e@145"], 10, 15),
        (["s@120", "e@150"], 12, 15),
        (["12:18", "15:30"], 15, 18),
        (["12:13", "15:16"], 15, 13),
        (["15:15"], 15, 15),
    ],
)
def test_every_form_of_an_offset(texts: list[str], first: int, end: int | None) -> None:
    notes: list[str] = []
    assert found(*texts, notes=notes) == (first, end, None)
    assert notes == []


def test_an_end_in_time_that_nothing_has_reached_stays_open() -> None:
    assert found("e@5000") == (10, None, 5000)
    assert found("e@5000", "e@4000") == (10, None, 4000)


def test_an_offset_beyond_the_end_is_nothing_and_is_said() -> None:
    notes: list[str] = []
    assert found("50", notes=notes) == (50, None, None)
    assert notes == ["t/0: offset 50 is beyond the end 20: nothing is there yet"]
    assert found("20", notes=[]) == (20, None, None)


def test_an_offset_before_the_start_begins_there_and_is_said() -> None:
    notes: list[str] = []
    assert found("3", notes=notes) == (10, None, None)
    assert found(":5", notes=notes) == (10, 5, None)
    assert notes == [
        "t/0: offset 3 is before the log start 10: reading from 10",
        "t/0: offset 5 is before the log start 10: nothing to read",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "x",
        "1.5",
        "--3",
        "+-3",
        "-",
        "+",
        "1:2:3",
        "12a",
        " 3",
        "0x10",
        "٣",
        "9" * 30,
        "@",
        "e@",
        "@x",
        "s@-",
        "End",
    ],
)
def test_nonsense_is_named_with_a_hint(text: str) -> None:
    with pytest.raises(errors.Usage) as caught:
        parse_offsets([text])
    assert repr(text) in str(caught.value) and caught.value.hint and caught.value.exit_code == 2


def test_a_range_that_ends_before_it_begins_is_nonsense() -> None:
    with pytest.raises(errors.Usage) as caught:
        parse_offsets(["9:5"])
    assert caught.value.hint == "-o 5:9"


@given(st.text(max_size=12))
def test_any_text_is_understood_or_refused(text: str) -> None:
    for parse in (lambda: parse_offsets([text]), lambda: parse_partitions(text), lambda: parse_time(text)):
        try:
            parse()
        except errors.Usage as error:
            assert error.hint


def test_partitions_are_numbers_lists_and_ranges() -> None:
    assert parse_partitions("0") == [0]
    assert parse_partitions("2,0, 2") == [0, 2]
    assert parse_partitions("1-3,7") == [1, 2, 3, 7]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a",
        "-1",
        "1-",
        "3-1",
        "1--2",
        "0,",
        "99999999999",
        "0-99999999999",
        "9" * 5_000,
        "0-" + "9" * 5_000,
    ],
)
def test_partitions_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(errors.Usage) as caught:
        parse_partitions(text)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("1700000000123", 1700000000123),
        ("-5", -5),
        ("now", NOW),
        ("1h", NOW - 3_600_000),
        ("15m", NOW - 900_000),
        ("90s", NOW - 90_000),
        ("2d", NOW - 172_800_000),
        ("1w", NOW - 604_800_000),
        ("250ms", NOW - 250),
        ("1h30m", NOW - 5_400_000),
        ("1H", NOW - 3_600_000),
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01t00:00:01z", 1000),
        ("1970-01-01 00:00:01Z", 1000),
        ("1970-01-01T01:00:01+01:00", 1000),
        ("2026-01-31T12:00:00.123Z", 1_769_860_800_123),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_times_in_words(text: str, ms: int) -> None:
    assert parse_time(text, NOW) == ms


@given(st.integers(-10_000_000_000_000, 100_000_000_000_000))
def test_every_millisecond_comes_back(ms: int) -> None:
    from pspf.store.formats import rfc3339

    assert parse_time(rfc3339(ms).decode()) == ms


def test_a_day_begins_at_midnight_here() -> None:
    today = datetime.fromtimestamp(NOW / 1000).replace(hour=0, minute=0, second=0, microsecond=0)
    assert parse_time("today", NOW) == int(today.timestamp() * 1000)
    assert parse_time(today.strftime("%Y-%m-%d"), NOW) == parse_time("today", NOW)
    assert 23 * 3_600_000 <= parse_time("today", NOW) - parse_time("yesterday", NOW) <= 25 * 3_600_000
    assert parse_time("2026-01-31T00:00:00Z") == int(datetime(2026, 1, 31, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "1",
        "1x",
        "tomorrow",
        "2026-13-01",
        "2026-W01-1",
        "20260131",
        "2026-01-31T",
        "2026-01-31T1",
        "1h 30m",
        "-1h",
    ],
)
def test_times_that_mean_nothing_are_refused(text: str) -> None:
    if text in ("1", "20260131"):  # digits alone are epoch milliseconds
        assert parse_time(text) == int(text)
        return
    with pytest.raises(errors.Usage) as caught:
        parse_time(text)
    assert repr(text) in str(caught.value) and "epoch milliseconds" in caught.value.hint


@pytest.mark.parametrize("text", ["99999999999999w", "999999999999999d" * 100, "1h" + "999999999999999w"])
def test_a_length_of_time_beyond_64_bits_is_refused(text: str) -> None:
    with pytest.raises(errors.Usage, match="64 bits") as caught:
        parse_time(text, NOW)
    assert "epoch milliseconds" in caught.value.hint


def test_the_longest_time_that_fits_is_taken() -> None:
    weeks = ((1 << 63) + NOW) // 604_800_000
    assert parse_time(f"{weeks}w", NOW) == NOW - weeks * 604_800_000 >= -(1 << 63)
    with pytest.raises(errors.Usage):
        parse_time(f"{weeks + 1}w", NOW)


@pytest.mark.parametrize("text", ["9" * 5_000, "+" + "9" * 5_000, "-" + "9" * 5_000])
def test_a_number_of_records_of_thousands_of_digits_is_refused(text: str) -> None:
    with pytest.raises(errors.Usage, match="no number of records"):
        how_many(text, False)
    assert how_many("+" + "9" * 18, False) == (None, 10**18 - 1)


def test_a_limit_below_zero_is_refused() -> None:
    with pytest.raises(errors.Usage):
        Selection(limit=-1)
