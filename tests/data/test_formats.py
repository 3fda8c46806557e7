"""Formats of rows: each gives the same rows, and a bad or hostile file is named by its row."""

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lzero.data.formats import base, json_array
from lzero.data.rows import read_rows
from lzero.errors import DataError

ROWS = [{"question": 'Who said "a, b"?', "answer": "Kato"}, {"question": "北京?\nyes", "answer": "1;2"}]


def rows(path: Path) -> list[dict[str, object]]:
    return [dict(row.fields) for _, row in read_rows(path, max_bytes=1 << 20)]


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        rows(path)
    return str(caught.value)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(ROWS, indent=1, ensure_ascii=False), "utf-8")
    (tmp_path / "wrapped.json").write_text(json.dumps({"Version": [1], "Data": ROWS, "n": [{}]}), "utf-8")
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, ROWS)), "utf-8")
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "arrays.json").write_text("\n".join(json.dumps([row]) for row in ROWS), "utf-8")
    quoted = '\r\nquestion,answer\r\n"Who said ""a, b""?",Kato\r\n\r\n"北京?\nyes",1;2\r\n'
    (tmp_path / "a.csv").write_bytes(quoted.encode())
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(quoted.encode()))
    for path in sorted(tmp_path.iterdir()):
        assert rows(path) == ROWS, path.name
    (tmp_path / "a.tsv").write_text('\nquestion\tanswer\tnote\nsaid "a" b\t"[""x""]"\t\n\n', "utf-8")
    assert rows(tmp_path / "a.tsv") == [{"question": 'said "a" b', "answer": '["x"]', "note": None}]


values = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('a"\\[]{},é', max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["data", "b", '"']), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from(["q", "rows", "]"]), values), max_size=3), st.integers(1, 9))
def test_an_array_is_split_wherever_its_chunks_end(elements: list[dict[str, object]], size: int) -> None:
    for text in (json.dumps(elements), json.dumps({"a": "x", "data": elements, "b": 1}, ensure_ascii=False)):
        splitter, data = json_array._Splitter(), text.encode()
        found = [row for at in range(0, len(data), size) for row in splitter.feed(data[at : at + size])]
        splitter.finish()
        assert [json.loads(row) for row in found] == elements


@pytest.mark.parametrize("size", range(1, 40))
def test_a_key_after_the_rows_is_read_wherever_its_chunks_end(size: int) -> None:
    def split(text: bytes) -> list[bytes]:
        splitter = json_array._Splitter()
        return [row for at in range(0, len(text), size) for row in splitter.feed(text[at : at + size])]

    assert split(b'{"data": [{"a": 1}], "a longer key": [{"a": 2}], "other": [{"a": 3}]} \n') == [b'{"a": 1}']
    with pytest.raises(base.BadFile, match='two arrays of rows, "data" and "rows"'):
        split(b'{"data": [{"a": 1}], "another": "value", "rows": [{"a": 2}]}')
    with pytest.raises(base.BadFile, match="goes on with"):
        split(b'{"data": [{"a": 1}]}\n{"data": [{"a": 2}]}')


def test_one_row_in_a_file_may_hold_arrays_of_objects(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(json.dumps({"question": "?", "passages": [{"text": "x"}]}), "utf-8")
    assert rows(tmp_path / "1.json") == [{"question": "?", "passages": [{"text": "x"}]}]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.json", b'[{"a": 1}, {"a"', "is not whole: its JSON ends inside of a value"),
        ("a.json", b'{"data": [{"a": 1}], "b": {"rows": []}, "rows": [{}]}', 'two arrays of rows, "data" and "rows"'),
        ("a.json", b'{"data": [{"a": 1}], "rows"', "is not whole: its JSON ends inside of a value"),
        ("a.json", b'{"data": [{"a": 1}]}\n[{"a": 2}]', r"goes on with '\[.*' after the object of its rows"),
        ("a.json", b'{"data": [{"a": 1}]} ]]] junk', r"goes on with ']]] junk' after the object of its rows"),
        ("a.json", b'[{"a": 1}}]', "is not JSON: after 1 rows, } closes what is not open"),
        ("a.json", b"]", "closes what is not open"),
        ("a.json", b'[{"a": 1}, [2]]', "row 2 of .* holds a list: each element of the array is one JSON object"),
        (
            "a.json",
            b'[{"a": 1}, null]',
            "row 2 of .* begins with 'null]': each element of the array is one JSON object",
        ),
        ("a.json", b'[{"a": 1}] and', "row 2 of .* begins with 'and'"),
        ("a.json", b'[{"a": tru}]', "row 1 of .* is not JSON in UTF-8"),
        ("a.csv", b"a,b\n1,2\n3\n", "row 2 of .* has 1 values, and there are 2 columns"),
        ("a.csv", b'a\n"x', "row 1 of .* is not CSV: unexpected end of data"),
        ("a.csv", b"a,a\n", "has two columns named 'a'"),
        ("a.tsv", b"a\tb\n\xff\t1\n", "line 2 of .* is not in UTF-8"),
        ("a.tsv", b"x\t" * 10_001, "has more than 10,000 columns"),
        ("a.arrow", b"ARROW1 no", "is not a whole Arrow file"),
        ("a.arrow", b"\xff\xff\xff\xff\x10", "is not a whole Arrow file"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    assert re.search(said, refusal(tmp_path / name, data))


def test_a_map_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    maps = pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"question": ["?"], "metadata": maps}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1 of .* has a key twice"):
        rows(tmp_path / "a.parquet")


def test_a_row_is_bounded_in_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_ROW_BYTES", 1_000)
    monkeypatch.setattr(json_array, "CHUNK_BYTES", 100)
    long = b"x" * 5_000
    for name, data in {
        "a.json": b'[{"a": "' + long + b'"}]',
        "b.json": b'{"data": 1, "a": "' + long,
        "a.csv": b"a\n" + b'"xxxxxxx\n' + b"xxxxxxxxx\n" * 300,
        "b.csv": b"a\n" + long,
        "a.tsv": b"a\n" + long,
    }.items():
        assert "is larger than the 1,000 bytes that a row may have" in refusal(tmp_path / name, data), name


def test_an_arrow_file_whose_lengths_are_false_is_refused(tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\xff\xff\xff\x7f\1\0\0\0"), pa.py_buffer(b"ab"))
    batch = pa.record_batch([texts], ["question"])
    with pa.ipc.new_stream(tmp_path / "a.arrow", batch.schema) as stream:
        stream.write_batch(batch)
    with pytest.raises(DataError, match=r"a\.arrow is not a whole Arrow file"):
        rows(tmp_path / "a.arrow")
