"""JSON from strangers, read as a model."""

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from quee.serving.requests import RefusedError, read


class Asked(BaseModel):
    a: Any = None
    shape: list[int] = []


@given(st.binary())
def test_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(RefusedError):
        read(Asked, data)


@pytest.mark.parametrize("depth", [1000, 200_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_bounded(depth: int, opens: str, closes: str) -> None:
    for end in ("", closes * depth):
        with pytest.raises(RefusedError, match="not JSON: recursion limit"):
            read(Asked, (opens * depth + "0" * bool(end) + end).encode())


def test_lists_and_objects_are_bounded() -> None:
    with pytest.raises(RefusedError, match="at most 2000000"):
        read(Asked, b'{"a": [' + b"[]," * 2_000_001 + b"0]}")


def test_a_string_without_an_end_takes_no_longer_than_its_length() -> None:
    start = time.process_time()
    with pytest.raises(RefusedError, match="not JSON: EOF"):
        read(Asked, b'"' + b'\\"' * 500_000)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b'"\\', b"1" * 5000, b'{"a": "\\ud800"}'])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError, match="not JSON"):
        read(Asked, data)


def test_a_refusal_names_the_field_what_is_valid_and_what_was_given_in_short() -> None:
    with pytest.raises(RefusedError) as refused:
        read(Asked, b'{"shape": [1, "' + b"x" * 10_000 + b'"]}')
    assert (refused.value.status, refused.value.why) == (400, "shape")
    assert refused.value.message.startswith("shape.1: Input should be a valid integer")
    assert len(refused.value.message) < 200


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert read(Asked, b'{"a": 1, "a": 2}').a == 2
