"""The end of a reply in words, for any division into pieces."""

from hypothesis import example, given
from hypothesis import strategies as st

from lzero.engine.chat.reply import StopCut, cut_off_stop

TEXTS = st.text("ab</>", max_size=30)


@given(st.lists(TEXTS, max_size=8), st.lists(st.text("ab</>", min_size=1, max_size=4), max_size=3))
@example(["a</", "b", ">b"], ["</b>"])
@example(["aab"], ["ab", "aab"])
def test_a_text_is_cut_after_the_stop_string_that_ends_first(pieces: list[str], stop: list[str]) -> None:
    whole = "".join(pieces)
    ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(string) for string in stop)]
    cut = StopCut(stop)
    kept = [cut.feed(piece) for piece in pieces]
    assert cut.text == "".join(kept) == whole[: min(ends, default=None)]
    assert cut.stopped == bool(ends)
    assert sum(string in cut.text for string in stop) > 0 or not cut.stopped


@given(TEXTS, TEXTS)
def test_what_a_server_took_off_is_found_where_one_tag_was_left_open(before: str, inside: str) -> None:
    cut = StopCut(("</code>", "</answer>"))
    cut.feed(f"{before}<code>{inside}")
    assert cut_off_stop(cut.text, cut.stop) == "</code>"
    assert cut_off_stop(before, cut.stop) == ""


def test_no_stop_string_ends_nothing() -> None:
    cut = StopCut(("",))
    assert (cut.feed("a"), cut.feed(""), cut.feed("b"), cut.text, cut.stopped) == ("a", "", "b", "ab", False)


def test_a_thought_is_no_text_and_a_tag_that_is_repeated_for_ever_costs_its_length() -> None:
    stop = ("</code>", "</answer>")
    assert cut_off_stop("<think><answer></think><code>x", stop) == "</code>"
    assert cut_off_stop("<think><code>", stop) == "</code>"
    assert cut_off_stop("<think>" * 500_000, stop) == ""
