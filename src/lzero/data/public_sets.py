"""Public data sets that `lzero data download` fetches: an entry for each, with its home, the names of its files, and its licence.

A split lists the names of its file, first as it lies in its home on the Hub, then as its authors publish it. To add a set, add an entry
to `_SETS`, and a row to the table in `docs/data.md`.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lzero.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """A public data set."""

    name: str
    title: str
    home: str
    """OWNER/NAME on the Hub."""
    splits: Mapping[str, Sequence[str]]
    """Split → names of its files; * stands for any part of a name."""
    shape: str = ""
    """Name of the shape of its rows (see `lzero.data.shapes`); empty: they name question and answer themselves."""
    licence: str = ""
    """Empty: its authors name none."""
    scorer: str = "em"
    """Score of an answer that its benchmark reports."""
    revision: str = ""
    """Branch of the home; empty: the main one."""
    gated: bool = False
    """Whether the home asks its users for consent."""
    attached: bool = False
    """Whether rows name files in the directory of their file."""
    from_root: bool = False
    """Whether rows, as its authors publish them, name files relative to the set's root."""


_SETS: Sequence[PublicSet] = (
    PublicSet(
        name="hotpotqa",
        title="HotpotQA, in the distractor setting",
        home="hotpotqa/hotpot_qa",
        splits={
            "train": ("distractor/train-*.parquet", "hotpot_train_v1.1.json"),
            "validation": ("distractor/validation-*.parquet", "hotpot_dev_distractor_v1.json"),
        },
        shape="HotpotQA",
        licence="CC BY-SA 4.0",
    ),
    PublicSet(
        name="2wikimultihopqa",
        title="2WikiMultihopQA",
        home="xanhho/2WikiMultihopQA",
        splits={"train": ("train.parquet", "train.json"), "validation": ("dev.parquet", "dev.json")},
        shape="HotpotQA",
        licence="Apache-2.0",
    ),
    PublicSet(
        name="musique",
        title="MuSiQue, answerable questions",
        home="dgslibisey/MuSiQue",
        splits={"train": ("musique_ans_v1.0_train.jsonl",), "validation": ("musique_ans_v1.0_dev.jsonl",)},
        shape="MuSiQue",
        licence="CC BY 4.0",
    ),
    PublicSet(
        name="nq",
        title="Natural Questions, open (short answers)",
        home="google-research-datasets/nq_open",
        splits={
            "train": ("nq_open/train-*.parquet", "NQ-open.train.jsonl"),
            "validation": ("nq_open/validation-*.parquet", "NQ-open.dev.jsonl"),
        },
        licence="CC BY-SA 3.0",
    ),
    PublicSet(
        name="triviaqa",
        title="TriviaQA, unfiltered, without documents",
        home="mandarjoshi/trivia_qa",
        splits={
            "train": ("unfiltered.nocontext/train-*.parquet", "triviaqa-unfiltered/unfiltered-web-train.json"),
            "validation": ("unfiltered.nocontext/validation-*.parquet", "triviaqa-unfiltered/unfiltered-web-dev.json"),
        },
        shape="TriviaQA",
    ),
    PublicSet(
        name="popqa",
        title="PopQA",
        home="akariasai/PopQA",
        splits={"test": ("test.tsv", "popQA.tsv")},
        shape="PopQA",
        scorer="contains",
    ),
    PublicSet(
        name="simpleqa",
        title="SimpleQA",
        home="basicv8vc/SimpleQA",
        splits={"test": ("simple_qa_test_set.csv",)},
        shape="SimpleQA",
        licence="MIT",
        scorer="simpleqa",
    ),
    PublicSet(
        name="bamboogle",
        title="Bamboogle",
        home="chiayewken/bamboogle",
        splits={"test": ("data/test-*.parquet", "Bamboogle Prerelease - Sheet1.csv")},
        shape="Bamboogle",
    ),
    PublicSet(
        name="gsm8k",
        title="GSM8K",
        home="openai/gsm8k",
        splits={
            "train": ("main/train-*.parquet", "train.jsonl", "train.jsonl.gz"),
            "test": ("main/test-*.parquet", "test.jsonl", "test.jsonl.gz"),
        },
        shape="GSM8K",
        licence="MIT",
        scorer="numeric",
    ),
    PublicSet(
        name="math",
        title="MATH",
        home="EleutherAI/hendrycks_math",
        splits={"train": ("*/train-*.parquet", "train/*/*.json"), "test": ("*/test-*.parquet", "test/*/*.json")},
        shape="MATH",
        licence="MIT",
        scorer="math",
    ),
    PublicSet(
        name="gaia",
        title="GAIA, the questions whose answers are public",
        home="gaia-benchmark/GAIA",
        splits={"validation": ("2023/validation/metadata.parquet", "2023/validation/metadata.jsonl")},
        shape="GAIA",
        scorer="gaia",
        gated=True,
        attached=True,
    ),
    PublicSet(
        name="wikitablequestions",
        title="WikiTableQuestions, the first random split",
        home="stanfordnlp/wikitablequestions",
        splits={
            "train": ("random-split-1/train/*.parquet", "data/random-split-1-train.tsv"),
            "validation": ("random-split-1/validation/*.parquet", "data/random-split-1-dev.tsv"),
            "test": ("random-split-1/test/*.parquet", "data/pristine-unseen-tables.tsv"),
        },
        shape="WikiTableQuestions",
        licence="CC BY-SA 4.0",
        revision="refs/convert/parquet",
        from_root=True,
    ),
)


PUBLIC_SETS: Mapping[str, PublicSet] = {each.name: each for each in _SETS}


def public_set(name: str) -> PublicSet:
    """Return a set by its name. Raises ConfigError, which names the nearest one."""
    if name not in PUBLIC_SETS:
        (nearest,) = difflib.get_close_matches(name.lower(), PUBLIC_SETS, n=1, cutoff=0.0)
        raise ConfigError(f"no set is named {name!r:.80}; did you mean {nearest!r}? There are {', '.join(PUBLIC_SETS)}")
    return PUBLIC_SETS[name]
