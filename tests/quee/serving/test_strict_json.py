"""JSON from strangers."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.serving.refusal import RefusedError
from quee.serving.strict_json import DEPTH, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_writes_is_read(value) -> None:
    assert loads(json.dumps(value).encode(), depth=1000) == value


@given(st.binary())
def test_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(RefusedError):
        loads(data)


@pytest.mark.parametrize("depth", [DEPTH + 1, 1000, 200_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_bounded(depth: int, opens: str, closes: str) -> None:
    with pytest.raises(RefusedError, match="deep"):
        loads((opens * depth + "0" + closes * depth).encode())
    with pytest.raises(RefusedError):
        loads((opens * depth).encode())


def test_brackets_in_strings_are_no_depth() -> None:
    text = {"a": "[" * 100 + '"\\'}
    assert loads(json.dumps(text).encode()) == text


def test_a_string_without_an_end_takes_no_longer_than_its_length() -> None:
    data = b'"' + b'\\"' * 500_000
    start = time.process_time()
    with pytest.raises(RefusedError, match="Unterminated"):
        loads(data)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"b": {"a": 1, "a": 2}}', '{"a": 1, "\\u0061": 2}'])
def test_a_key_given_twice_is_refused_by_name(text: str) -> None:
    with pytest.raises(RefusedError, match="'a' is given twice"):
        loads(text.encode())


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_what_is_not_finite_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="not a JSON number"):
        loads(text.encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b'"\\', b"1" * 5000, b"[" + b"[]," * 2_000_001 + b"0]"])
def test_broken_and_blown_up_texts_are_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        loads(data)
