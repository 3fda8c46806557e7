"""`lzero data download` and `hf:` against a hub on loopback, and `lzero data show`."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, Hub, serve
from public_sets import GAIA, MUSIQUE, TABLE, write_copies

from lzero.cli import main
from lzero.config import TasksConfig
from lzero.data.sources import open_source

COMMANDS = """
import json, sys
import lzero.data.hub
from lzero.cli import main
for command in json.loads(sys.argv[1]):
    if isinstance(command, int):
        lzero.data.hub.MAX_BYTES = command
        continue
    print("$", *command, flush=True)
    try:
        main(command)
    except SystemExit as ended:
        print("exit", ended.code, flush=True)
"""
CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
---
"""


def parquet(*rows: dict[str, object]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


def hub() -> Hub:
    gsm8k = {
        "README.md": CARD,
        "main/train-00000-of-00002.parquet": parquet({"question": "How many?", "answer": "#### 2"}),
        "main/train-00001-of-00002.parquet": parquet({"question": "How few?", "answer": "#### 1"}),
        "main/test-00000-of-00001.parquet": parquet({"question": "How much?", "answer": "#### 3"}),
    }
    row = {name: value for name, value in GAIA.items() if name != "Annotator Metadata"}
    gaia = {"2023/validation/metadata.parquet": parquet(row), "2023/validation/boats.csv": TABLE.encode()}
    table = {"header": ["port", "boats"], "rows": [["Nord", "12"]], "name": "csv/200-csv/0.tsv"}
    wtq = parquet({"id": "nt-0", "question": "which?", "answers": ["Nord"], "table": table})
    musique = {
        f"musique_ans_v1.0_{split}.jsonl": json.dumps(MUSIQUE | {"id": split}).encode() for split in ("train", "dev")
    }
    return Hub(
        sets={
            "openai/gsm8k": gsm8k,
            "gaia-benchmark/GAIA": gaia,
            "open/gaia": gaia,
            "dgslibisey/MuSiQue": musique,
            "akariasai/PopQA": {"other.tsv": b"id\n"},
            "xanhho/2WikiMultihopQA": {"2WikiMultihopQA.py": b"", "train.parquet": wtq},
            "stanfordnlp/wikitablequestions": {
                f"random-split-1/{split}/0000.parquet": wtq for split in ("train", "validation")
            }
            | {
                "random-split-1/test/0000.parquet": parquet(
                    {"id": "nu-0", "question": "which?", "answers": ["Nord"], "table": table}
                )
            },
        },
        gated=frozenset({"gaia-benchmark/GAIA"}),
    )


def run(folder: Path, served: Hub, *commands: list[str] | int) -> dict[str, str]:
    """Run commands of lzero one after another in a process. Return what each printed, by its words."""
    own = {"HF_ENDPOINT": served.url, "HF_HOME": str(folder / "hf"), "XDG_CACHE_HOME": str(folder / "cache")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env=environment | own | quiet,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=True,
    )
    parts = (part.partition("\n") for part in done.stdout.split("$ ")[1:])
    return {words: said for words, _, said in parts}


@pytest.mark.integration
def test_sets_are_fetched_from_the_hub_once_and_what_has_changed_is_named(tmp_path: Path) -> None:
    commands: list[list[str] | int] = [
        *(["data", "download", name] for name in ("gsm8k", "musique", "gaia", "popqa", "2wikimultihopqa", "nq")),
        ["data", "download", "gaia", "--home", "open/gaia"],
        ["data", "download", "wikitablequestions@main"],
        ["data", "download", "wikitablequestions@main"],
        ["data", "download", f"wikitablequestions@{COMMIT[:8]}"],
        ["data", "download", "wikitablequestions@other"],
        ["data", "show", "hf:openai/gsm8k/main:test", "--json"],
        ["data", "show", "hf:openai/gsm8k/other"],
        100,
        ["data", "show", "hf:dgslibisey/MuSiQue:train"],
    ]
    with serve(hub()) as served:
        said = run(tmp_path, served, *commands)
    assert "gsm8k: 3 tasks in data/gsm8k; 3 rows of GSM8K's shape" in said["data download gsm8k"]
    assert "musique: 2 tasks" in said["data download musique"]
    gated = said["data download gaia"]
    assert (
        f"it is gated. Ask for access at {served.url}/datasets/gaia-benchmark/GAIA, then log in with `hf auth" in gated
    )
    assert "hf:akariasai/PopQA: its files are not where they were" in said["data download popqa"]
    assert "hf:xanhho/2WikiMultihopQA: it is a program, and none is run" in said["data download 2wikimultihopqa"]
    assert "hf:google-research-datasets/nq_open: no such data set" in said["data download nq"]
    assert "gaia: 1 task in" in said["data download gaia --home open/gaia"]
    there = "data/wikitablequestions is there"
    assert there in said["data download wikitablequestions@main"]
    assert there in said[f"data download wikitablequestions@{COMMIT[:8]}"]
    assert f"holds revision {COMMIT}" in said["data download wikitablequestions@other"]
    row = json.loads(said["data show hf:openai/gsm8k/main:test --json"].partition("\n")[0])
    assert (row["answers"], row["split"], row["revision"]) == (["3"], "test", COMMIT)
    assert "other" in said["data show hf:openai/gsm8k/other"]
    assert "more than 100: name a smaller part" in said["data show hf:dgslibisey/MuSiQue:train"]
    source = open_source(str(tmp_path / "data" / "gaia"), split="eval", seed=1, config=TasksConfig())
    assert Path(source.task(0).files[0]).read_text("utf-8") == TABLE
    made = json.loads((tmp_path / "data" / "gsm8k" / "manifest.json").read_text("utf-8"))
    assert made["options"]["revision"] == COMMIT
    assert made["inputs"][0]["name"] == f"hf:openai/gsm8k@{COMMIT[:12]} (train)"


def test_show_pages_through_a_set_and_prints_one_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_copies(tmp_path))
    said = {}
    for words in (
        "data download hotpotqa gsm8k --from . --out sets",
        "data download hotpotqa --from . --out sets",
        "data show sets/hotpotqa --limit 1",
        "data show sets/hotpotqa --limit 1 --page 2 --json",
        "data show sets/hotpotqa --id 5a1",
        "data show sets/hotpotqa --dropped",
        "data show sets/hotpotqa --page 9",
        "data show hotpotqa:train --dropped",
        "data download gsm8k@1f0c --from .",
        "data download hotpotqa gsm8k --home a/b",
        "data download gsm8k --from none",
        "data download hotpot-qa",
        "data download",
    ):
        with pytest.raises(SystemExit):
            main(words.split())
        captured = capsys.readouterr()
        said[words] = " ".join((captured.out + captured.err).split())
    expected = (
        "hotpotqa: 2 tasks in sets/hotpotqa; 2 rows of HotpotQA's shape; 1 dropped: no gold answer; 1 dropped: no id of its own",
        "hotpotqa: sets/hotpotqa is there already, with 2 tasks",
        "5a1 train qa Where was Liri's founder born? Kato 1 to 1; more: --page 2; one of them: --id ID",
        '{"id":"5b1","question":',
        "licence CC BY-SA 4.0",
        "hotpotqa-train-3 train qa Where was Liri's founder born? download: no id of its own: ",
        "sets/hotpotqa has no such rows on page 9",
        "is no set that lzero data wrote, so nothing was dropped from it",
        "@1f0c has no effect with --from",
        "--home names the home of one set",
        "--from none: there is no such directory",
        "no set is named 'hotpot-qa'; did you mean 'hotpotqa'?",
        "gaia-benchmark/GAIA (gated: ask for access at its home)",
    )
    for (words, text), part in zip(said.items(), expected, strict=True):
        assert part in text, words
