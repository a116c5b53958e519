"""The reason of another tool's failure, from its output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.work.words import last_words, shortened

PRINTED = {
    "ERROR: failed to pull\n": "failed to pull",
    "fetching\nERROR: failed to connect - no credentials\nERROR: failed to pull\n": (
        "failed to connect - no credentials; failed to pull"
    ),
    "ERROR: Checkout failed for following targets:\n data/two\nIs your cache up to date?\n": (
        "Checkout failed for following targets: data/two Is your cache up to date?"
    ),
    "WARNING: Missing cache files:\nmd5: abc\nERROR: no\nERROR: no\n\nHaving any troubles? Hit us up\n": (
        "Missing cache files: md5: abc; no"
    ),
    "Traceback (most recent call last):\n  File x\nRuntimeError: Timed out\n": "RuntimeError: Timed out",
    "INFO:     Started\nERROR:    Application startup failed. Exiting.\n": "Application startup failed. Exiting.",
    "ERROR: a\nERROR: b\nERROR: c\nERROR: d\nERROR: a\n": "c; d; a",
    "": "",
    " \n\n": "",
}


@pytest.mark.parametrize("printed", PRINTED, ids=repr)
def test_the_reason_is_in_one_line(printed: str) -> None:
    assert last_words(printed) == PRINTED[printed]


@given(st.lists(st.sampled_from(["ERROR: a", "WARNING: b", "INFO: c", "plain", ""])), st.text("xyz", min_size=1))
def test_the_last_line_is_always_in_it(lines: list[str], last: str) -> None:
    assert last in last_words("\n".join([*lines, last]))


@given(st.text(), st.integers(10, 500))
def test_long_words_keep_their_beginning_and_end(words: str, most: int) -> None:
    short = shortened(words, most)
    assert len(short) <= most + 3
    assert short == words or (short[:4] == words[:4] and short[-4:] == words[-4:])
