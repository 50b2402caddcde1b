"""The JSON envelope: exact both ways, and strict about what it takes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.format.envelope import KEYS, BadEnvelope, decode, encode, encode_columns, encode_fields
from pspf.model import Record

names = st.binary(max_size=6).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
contents = st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)
pairs = st.lists(st.tuples(names, contents), max_size=3)
int64 = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.integers(0, 9999), st.integers(0, (1 << 63) - 1), int64, contents, contents, pairs)
def test_a_record_comes_back_exactly(
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
) -> None:
    line = encode(Record("t", partition, offset, timestamp_ms, key, value, headers))
    assert line.count(b"\n") == 1 and line.endswith(b"}\n")
    back = decode(line)
    assert (back.topic, back.partition, back.offset, back.timestamp_ms) == (
        "t",
        partition,
        offset,
        timestamp_ms,
    )
    assert (back.key, back.value, back.headers) == (key, value, headers)


simple = st.text(max_size=8).map(str.encode) | st.sampled_from([b'","', b'"', b"%d", b"\\", b"", b","])
rows = st.lists(st.tuples(st.integers(0, 9), int64.map(abs), int64, simple, simple, st.just([])), max_size=6)
any_rows = st.lists(
    st.tuples(st.integers(0, 9), int64.map(abs), int64, contents, contents, pairs), max_size=6
)


@given(rows | any_rows | rows.map(lambda all_rows: [(p, o, t, None, v, h) for p, o, t, _, v, h in all_rows]))
def test_many_at_once_are_the_same_bytes(some: list[Any]) -> None:
    columns = list(zip(*some, strict=True)) or [()] * 6
    assert encode_columns("a%t", *columns) == b"".join(encode_fields("a%t", *row) for row in some)


def test_the_keys_stand_in_one_order_always() -> None:
    assert tuple(json.loads(encode_fields("t", 0, 1, 2, None, None))) == KEYS
    assert encode_fields(
        "t", 3, 4, 5, b"k", b'{"a": 1}', [("n", b"v"), ("e", b""), ("z", None), ("b", b"\xff")]
    ) == (
        b'{"topic":"t","partition":3,"offset":4,"timestamp":5,"key":"k","value":"{\\"a\\": 1}",'
        b'"headers":[["n","v"],["e",""],["z",null],["b",null,"/w=="]]}\n'
    )


def test_bytes_that_are_no_text_stand_in_base64_at_the_same_place() -> None:
    line = encode_fields("t", 0, 1, 2, b"\xff\x00", b"\xc3(")
    assert list(json.loads(line)) == [
        "topic",
        "partition",
        "offset",
        "timestamp",
        "key_base64",
        "value_base64",
        "headers",
    ]
    # The encoding of a surrogate is no UTF-8.
    assert b"value_base64" in encode_fields("t", 0, 1, 2, None, b"\xed\xa0\x80")


def test_null_and_empty_are_not_the_same() -> None:
    for key, value in ((None, b""), (b"", None), (b"", b""), (None, None)):
        back = decode(encode_fields("t", 0, 1, 2, key, value, [("a", None), ("b", b"")]))
        assert (back.key, back.value, back.headers) == (key, value, [("a", None), ("b", b"")])


def test_a_value_alone_is_enough() -> None:
    back = decode(b' {"value": "x"} \r\n')
    assert (back.value, back.key, back.headers) == (b"x", None, [])
    assert [back.topic, back.partition, back.offset, back.timestamp_ms] == [None] * 4
    assert decode('{"value_base64": ""}').value == b""
    assert decode(b'{"value": null, "key": null, "headers": null, "timestamp": null}').value is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "not a JSON object but a list"),
        ("null", "not a JSON object but null"),
        ("3", "a number"),
        ('"x"', "a string"),
        ("{}", "neither 'value' nor 'value_base64'"),
        ('{"key": "k"}', "neither 'value'"),
        ('{"value": "x", "header": []}', "unknown key 'header'"),
        ('{"value": "x", "Value": 1}', "unknown key 'Value'"),
        ('{"value": 3}', "'value' is a string or null, not a number"),
        ('{"value": {"a": 1}}', "not an object"),
        ('{"value": true}', "not true"),
        ('{"value": "x", "key": 1}', "'key' is"),
        ('{"value": "x", "value_base64": "eA=="}', "both 'value' and 'value_base64'"),
        ('{"value_base64": "e"}', "'value_base64' is no base64"),
        ('{"value_base64": "eA"}', "'value_base64' is no base64"),
        ('{"value_base64": "e A=="}', "'value_base64' is no base64"),
        ('{"value_base64": "é"}', "'value_base64' is no base64"),
        ('{"value_base64": null}', "'value_base64' is a string, not null"),
        ('{"value": "x", "key_base64": 7}', "'key_base64' is a string"),
        ('{"value": "x", "headers": {}}', "'headers' is a list"),
        ('{"value": "x", "headers": "h"}', "'headers' is a list"),
        ('{"value": "x", "headers": [["a"]]}', "header 0"),
        ('{"value": "x", "headers": [["a", "b"], ["a", 1]]}', "header 1"),
        ('{"value": "x", "headers": [[1, "b"]]}', "header 0"),
        ('{"value": "x", "headers": [["a", "b", "eA=="]]}', "header 0 has a value and base64"),
        ('{"value": "x", "headers": [["a", null, "!"]]}', "header 0 is no base64"),
        ('{"value": "x", "headers": [["\\ud800", "b"]]}', "header 0: its name"),
        (
            '{"value": "x", "headers": [["a", "b"], ["%s", "c"]]}' % ("x" * 65_536),
            "header 1 has a name of 65536 bytes",
        ),
        ('{"value": "\\ud800"}', "'value' has a lone surrogate"),
        ('{"value": "x", "timestamp": 1.5}', "'timestamp' is an integer, not 1.5"),
        ('{"value": "x", "timestamp": true}', "'timestamp' is an integer, not true"),
        ('{"value": "x", "timestamp": "1"}', "'timestamp' is an integer, not a string"),
        ('{"value": "x", "timestamp": 9223372036854775808}', "'timestamp' is 9223372036854775808"),
        ('{"value": "x", "offset": -1}', "'offset' is -1"),
        ('{"value": "x", "partition": -1}', "'partition' is -1"),
        ('{"value": "x", "topic": 1}', "'topic' is a string"),
    ],
)
def test_what_is_no_envelope_is_named(line: str, what: str) -> None:
    for form in (line, line.encode()):
        with pytest.raises(BadEnvelope, match=r"^[^A-Z]") as caught:
            decode(form)
        assert what in str(caught.value)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_an_envelope_or_refused(line: bytes) -> None:
    try:
        decode(line)
    except BadEnvelope:
        pass
