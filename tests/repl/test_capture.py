"""The jail's output capture, which needs nothing of the jail."""

import importlib.util
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.repl import jail, wire
from lzero.types import Display, Error, Output, Stream


@pytest.fixture(scope="module")
def capture() -> ModuleType:
    specification = importlib.util.spec_from_file_location("capture", jail.INSIDE / "capture.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_short_text_is_kept_whole(capture: ModuleType) -> None:
    clipped = capture.Clipped(10)
    for piece in ("ab", "", "cdef", "ghij"):
        clipped.add(piece)
    assert clipped.text() == "abcdefghij"


def test_long_text_keeps_head_and_tail_and_counts_the_rest(capture: ModuleType) -> None:
    clipped = capture.Clipped(10)
    for number in range(1000):
        clipped.add(f"{number % 10}")
    assert clipped.text() == "01234\n… [990 characters left out] …\n56789"
    assert capture.clip("x" * 11, 10) == "xxxxx\n… [1 characters left out] …\nxxxxx"


def test_what_is_cut_twice_is_counted_once(capture: ModuleType) -> None:
    for added, kept in ((1000, 100), (1000, 2000), (60, 100)):
        clipped = capture.Clipped(kept)
        for number in range(added):
            clipped.add(f"{number % 10}")
        clipped.narrow(20)
        assert clipped.text() == f"0123456789\n… [{added - 20} characters left out] …\n0123456789"
        assert clipped.size == added
    lines = capture.Clipped(1000, "\n".join(f"line {number:4}" for number in range(1000)))
    lines.keep_lines(4)
    assert lines.text() == "line    0\nline    1\n… [9961 characters left out] …\nline  998\nline  999"
    lines.keep_lines(2)
    assert lines.text() == "line    0\n… [9981 characters left out] …\nline  999"
    few = capture.Clipped(1000, "one\ntwo")
    few.keep_lines(2)
    assert few.text() == "one\ntwo"


def test_threads_that_write_at_once_lose_and_repeat_nothing(capture: ModuleType) -> None:
    with tempfile.TemporaryFile() as file:
        outputs = capture.Outputs({"stdout": file.fileno()})
        taken: list[Any] = []
        writers = [threading.Thread(target=_write_both_ways, args=(outputs, file.fileno(), n)) for n in range(4)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            taken += outputs.take()
        taken += outputs.take()
    # Characters, not words: a reader may see a write that crosses a page before all of it is there.
    written = Counter("".join(f" {way}{n}.{turn} " for way in "ab" for n in range(4) for turn in range(300)))
    assert Counter("".join(item["text"] for item in taken)) == written


def _write_both_ways(outputs: Any, descriptor: int, number: int) -> None:
    writer = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_APPEND)
    for turn in range(300):
        outputs.write("stdout", f" a{number}.{turn} ")
        os.write(writer, f" b{number}.{turn} ".encode())
    os.close(writer)


def test_streams_merge_and_stay_in_order(capture: ModuleType) -> None:
    outputs = capture.Outputs({})
    for name, text in (("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d"), ("stdout", "")):
        outputs.write(name, text)
    outputs.show("execute_result", {"text/plain": "1"})
    taken = outputs.take()
    assert [item.get("text") for item in taken] == ["ab", "c", "d", None]
    assert outputs.take() == []


@pytest.mark.skipif(sys.platform != "linux", reason="memfd")
def test_what_was_written_past_python_comes_first(capture: ModuleType) -> None:
    descriptor = os.memfd_create("stdout")
    outputs = capture.Outputs({"stdout": descriptor})
    os.write(descriptor, b"raw ")
    outputs.write("stdout", "python ")
    os.pwrite(descriptor, b"x" * 2_000_000 + b"end", 4)
    outputs.error("E", "", ["E"])
    stream, error = outputs.take()
    assert stream["text"].startswith("raw python xxx")
    assert stream["text"].endswith("xend")
    assert len(stream["text"]) < 66_000
    assert error["traceback"] == ["E"]
    os.close(descriptor)


def test_many_outputs_keep_the_first_and_the_last(capture: ModuleType) -> None:
    outputs = capture.Outputs({})
    for number in range(1000):
        outputs.show("display_data", {"text/plain": str(number)})
    taken = outputs.take()
    assert len(taken) == capture.CELL_OUTPUTS + 1
    assert taken[0]["data"]["text/plain"] == "0"
    assert taken[-1]["data"]["text/plain"] == "999"
    assert "900 outputs left out: 3550 characters" in taken[capture.CELL_OUTPUTS // 2]["text"]


@pytest.mark.parametrize("character", ["\x00", '"', "\n"])
def test_all_outputs_together_fit_into_a_frame(capture: ModuleType, character: str) -> None:
    largest = 4_000_000  # characters: what `repl.output_kb` may ask for
    outputs = capture.Outputs({}, largest)
    everything = ("text/plain", "text/markdown", "text/latex", "text/html", "image/png")
    for _ in range(capture.CELL_OUTPUTS):
        outputs.write("stdout", character * largest)
        outputs.show("display_data", dict.fromkeys(everything, character * largest))
        outputs.show("display_data", {"text/html": character * 10_000})
        outputs.error("E" * 1000, character * 10_000, [character * largest])
    taken = outputs.take()
    assert len(json.dumps(taken)) < wire.MAX_FRAME
    assert json.dumps(taken).count('"') < wire.MAX_QUOTES
    wire.check_size(msgspec.convert(taken, tuple[Output, ...]), largest)
    texts = [text for item in taken for text in (item.get("text"), *item.get("data", {}).values()) if text is not None]
    assert all("left out" in text or len(text) == 10_000 for text in texts)
    assert sum(map(len, texts)) < 1.1 * largest


LIMIT = 32_000
_texts = st.builds(lambda character, size: character * size, st.sampled_from("x\n\x00é"), st.integers(0, 2 * LIMIT))
_mimes = st.sampled_from(["text/plain", "text/markdown", "text/html", "image/png", "application/json"])
_names = st.sampled_from(["", "a", "b"])
_actions = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(["stdout", "stderr"]), _texts),
    st.tuples(st.just("show"), st.dictionaries(_mimes, _texts, min_size=1, max_size=4), _names, st.booleans()),
    st.tuples(st.just("error"), _texts),
    st.tuples(st.just("clear"), st.booleans()),
    st.tuples(st.just("many"), _texts),
)


@given(st.lists(_actions, max_size=30))
def test_whatever_a_cell_puts_out_is_bounded_and_typed(capture: ModuleType, actions: list[tuple[Any, ...]]) -> None:
    outputs = capture.Outputs({}, LIMIT)
    for action in actions:
        match action:
            case ("write", name, text):
                outputs.write(name, text)
            case ("show", data, name, update):
                outputs.show("display_data", data, name=name, update=update)
            case ("error", text):
                outputs.error(text, text, [text])
            case ("clear", wait):
                outputs.clear(wait=wait)
            case ("many", text):
                for _ in range(capture.CELL_OUTPUTS):
                    outputs.show("display_data", {"text/plain": text, "image/png": text})
    taken = outputs.take()
    assert len(taken) <= capture.CELL_OUTPUTS + 1
    typed = msgspec.convert(taken, tuple[Output, ...])
    shown = [output.data for output in typed if isinstance(output, Display)]
    assert (
        sum(len(text) for data in shown for mime, text in data.items() if not mime.startswith("text/"))
        <= LIMIT * 7 // 8
    )
    whole = {text for action in actions for part in action if isinstance(part, dict) for text in part.values()}
    whole |= {action[1] for action in actions if action[0] == "many"}
    assert all(data["image/png"] in whole for data in shown if "image/png" in data)  # nothing of an image is cut
    notes = 100 * len(taken)
    texts = [text for data in shown for mime, text in data.items() if mime.startswith("text/") and mime != "text/html"]
    texts += [output.text for output in typed if isinstance(output, Stream)]
    texts += ["\n".join(output.traceback) for output in typed if isinstance(output, Error)]
    assert sum(map(len, texts)) <= LIMIT // 8 + 3 * notes


def test_what_is_no_text_is_there_as_a_whole_or_not_at_all(capture: ModuleType) -> None:
    outputs = capture.Outputs({}, 16_000)
    outputs.show("display_data", {"text/plain": "<Figure>", "image/png": "p" * 8_000})
    outputs.show("display_data", {"text/plain": "<Figure>", "image/png": "q" * 8_000})
    outputs.show("display_data", {"image/png": "r" * 6_001})
    outputs.show("display_data", {"text/html": "s" * 3_000, "text/plain": "t" * 2_000})
    first, second, third, fourth = (item["data"] for item in outputs.take())
    assert first == {"text/plain": "<Figure>", "image/png": "p" * 8_000}
    assert second == {"text/plain": "<Figure>\n… [image/png of 8000 characters left out] …"}
    assert third == {"text/plain": "… [image/png of 6001 characters left out] …"}
    assert fourth["text/html"] == "s" * 3_000
    assert "1750 characters left out" in fourth["text/plain"]


def test_a_display_that_is_changed_stays_in_its_place_and_gives_back_its_room(capture: ModuleType) -> None:
    outputs = capture.Outputs({}, 16_000)
    for number in range(3):
        outputs.show("display_data", {"image/png": f"{number}" * 12_000}, name="plot", update=number > 0)
        outputs.write("stdout", "after")
    outputs.show("display_data", {"text/plain": "unknown"}, name="other", update=True)
    taken = outputs.take()
    assert taken[0]["data"] == {"image/png": "2" * 12_000}
    assert (taken[1]["text"], taken[2]["data"]["text/plain"]) == ("afterafterafter", "unknown")
    outputs.show("display_data", {"text/plain": "in another cell"}, name="plot", update=True)
    assert [item["data"]["text/plain"] for item in outputs.take()] == ["in another cell"]


def test_displays_with_names_are_as_few_as_outputs(capture: ModuleType) -> None:
    outputs = capture.Outputs({}, 64_000)
    for number in range(1_000):
        outputs.show("display_data", {"text/plain": "x" * 1_000}, name=str(number))
    assert len(outputs._displays) <= capture.CELL_OUTPUTS
    outputs.show("display_data", {"text/plain": "changed"}, name="0", update=True)
    outputs.show("display_data", {"text/plain": "left out, and shown anew"}, name="500", update=True)
    taken = outputs.take()
    assert taken[0]["data"]["text/plain"] == "changed"
    assert taken[-1]["data"]["text/plain"] == "left out, and shown anew"


def test_outputs_are_cleared_at_once_or_when_something_new_comes(capture: ModuleType) -> None:
    outputs = capture.Outputs({})
    outputs.write("stdout", "old")
    outputs.clear(wait=False)
    assert outputs.take() == []
    for number in range(3):
        outputs.clear(wait=True)
        outputs.show("display_data", {"text/plain": str(number)})
    outputs.clear(wait=True)
    assert [item["data"]["text/plain"] for item in outputs.take()] == ["2"]
    outputs.write("stdout", "of the next cell")
    assert len(outputs.take()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memfd")
def test_what_could_not_be_captured_is_said(capture: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture.resource, "getrlimit", lambda _: (1000, 1000))
    descriptor = os.memfd_create("stdout")
    outputs = capture.Outputs({"stdout": descriptor})
    os.write(descriptor, b"x" * 1000)
    stdout, stderr = outputs.take()
    assert stdout["text"] == "x" * 1000
    assert "stdout: nothing is captured beyond its first 1000 bytes" in stderr["text"]
    os.close(descriptor)


def test_a_hundred_errors_are_no_more_than_the_host_takes(capture: ModuleType) -> None:
    smallest = 32_000  # characters: what `repl.output_kb` may ask for
    outputs = capture.Outputs({}, smallest)
    for _ in range(2 * capture.CELL_OUTPUTS):
        outputs.error("E" * 10_000, "v" * 10_000, ["line"] * 10_000)
    wire.check_size(msgspec.convert(outputs.take(), tuple[Output, ...]), smallest)
