"""The jail's output capture, which needs nothing of the jail."""

import importlib.util
import json
import os
import sys
from types import ModuleType

import pytest

from lzero.repl import jail, wire


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
    assert len(stream["text"]) < 65_000
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
    assert "900 outputs left out" in taken[capture.CELL_OUTPUTS // 2]["text"]


@pytest.mark.parametrize("character", ["\x00", '"', "\n"])
def test_all_outputs_together_fit_into_a_frame(capture: ModuleType, character: str) -> None:
    outputs = capture.Outputs({})
    for _ in range(capture.CELL_OUTPUTS):
        outputs.write("stdout", character * capture.CELL_CHARS)
        outputs.show("display_data", {"text/plain": character * capture.CELL_CHARS})
        outputs.error("E", "", [character * capture.CELL_CHARS])
    taken = outputs.take()
    assert len(json.dumps(taken)) < wire.MAX_FRAME
    assert json.dumps(taken).count('"') < wire.MAX_QUOTES
    assert all("left out" in json.dumps(item, ensure_ascii=False) for item in taken)
