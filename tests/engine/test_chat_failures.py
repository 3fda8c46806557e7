"""The interpretation of a server's error, for any message of a server."""

import email.utils
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.engine.chat.failures import MAX_WORDS, is_overflow, may_pass, refused_option, words_of
from lzero.tools.retry import retry_after

NAMES = st.sampled_from(["error", "message", "detail", "loc", "msg", "code"])
JSONS = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(JSONS)
def test_any_error_gives_one_line_of_bounded_length(body: object) -> None:
    words = words_of(body)
    assert len(words) <= MAX_WORDS
    assert words.isprintable()
    assert refused_option({"seed": 1}, words, code=None, param=None) in (None, "seed")
    is_overflow(words, code=None, status=None)


def test_an_error_as_each_family_words_it_is_read() -> None:
    for body in (
        {"error": {"message": "no", "code": 400}},
        {"object": "error", "message": "no"},
        {"detail": "no"},
        [{"error": {"message": "no"}}],
        {"error": "no"},
        "no",
    ):
        assert words_of(json.loads(json.dumps(body))) == "no"
    assert words_of("<html>…") == words_of(None) == words_of({}) == ""


@given(st.text(max_size=20) | st.integers().map(str) | st.floats().map(str))
def test_any_header_asks_for_a_wait_or_for_none(value: str) -> None:
    wait_s = retry_after({"retry-after": value})
    assert wait_s is None or wait_s >= 0.0


def test_a_wait_is_seconds_or_a_date() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    later = email.utils.formatdate(time.time() + 60.0, usegmt=True)
    assert retry_after({"retry-after": later}) == pytest.approx(60.0, abs=5.0)


def test_the_option_named_first_is_the_one_refused() -> None:
    sent = dict.fromkeys(("stop", "seed", "max_completion_tokens"))
    allowed = "Unexpected field 'stop'; allowed are: seed, max_completion_tokens"
    assert refused_option(sent, allowed, code=None, param=None) == "stop"
    assert refused_option(sent, "max_tokens is not supported", code=None, param=None) is None
    assert refused_option(sent, "no", code="unsupported_parameter", param="seed") == "seed"


def test_a_server_has_the_last_word_on_whether_to_try_again() -> None:
    assert may_pass(503, {}, code=None)
    assert not may_pass(503, {"x-should-retry": "false"}, code=None)
    assert may_pass(400, {"x-should-retry": "true"}, code=None)
    assert not may_pass(429, {}, code="insufficient_quota")
