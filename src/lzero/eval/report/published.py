"""Published figures to compare with: exact match in percent, as papers report it. None of them was measured with lzero."""

from msgspec import Struct

DATASETS = ("NQ", "TriviaQA", "PopQA", "HotpotQA", "2Wiki", "MuSiQue", "Bamboogle", "SimpleQA")
_NAMES = {
    "nq": "NQ",
    "nqopen": "NQ",
    "naturalquestions": "NQ",
    "triviaqa": "TriviaQA",
    "popqa": "PopQA",
    "hotpotqa": "HotpotQA",
    "2wiki": "2Wiki",
    "2wikimultihopqa": "2Wiki",
    "2wikimultihop": "2Wiki",
    "musique": "MuSiQue",
    "bamboogle": "Bamboogle",
    "simpleqa": "SimpleQA",
}


class Published(Struct, frozen=True):
    """A row of a paper's table."""

    model: str
    method: str
    em: dict[str, float]
    """Data set → exact match in percent."""


class Paper(Struct, frozen=True):
    """Rows of one paper's table, all measured in its setting."""

    name: str
    source: str
    setting: str
    rows: tuple[Published, ...]


def dataset_of(source: str) -> str | None:
    """Return which of DATASETS the source of a task names; None for any other."""
    return _NAMES.get("".join(character for character in source.lower() if character.isalnum()))


def _row(model: str, method: str, **em: float) -> Published:
    names = {"wiki2": "2Wiki"} | {dataset.lower(): dataset for dataset in DATASETS}
    return Published(model, method, {names[name]: value for name, value in em.items()})


def _seven(model: str, method: str, *em: float) -> Published:
    return Published(model, method, dict(zip(DATASETS[:7], em, strict=True)))


PAPERS = (
    Paper(
        "L0",
        "arXiv 2506.23667",
        "NB-Agent with web search and a page reader",
        (
            _row("Qwen3-4B", "scaffold", hotpotqa=14.17, musique=4.28, bamboogle=18.40, simpleqa=22.26),
            _row("Qwen3-4B", "after RL", hotpotqa=38.74, musique=16.03, bamboogle=60.53, simpleqa=63.36),
            _row("Qwen2.5-7B-Instruct", "scaffold", hotpotqa=22.03, musique=8.33, bamboogle=31.20, simpleqa=21.94),
            _row("Qwen2.5-7B-Instruct", "after RL", hotpotqa=40.63, musique=16.60, bamboogle=57.60, simpleqa=61.68),
            _row("Qwen2.5-32B-Instruct", "scaffold", hotpotqa=38.48, musique=14.78, bamboogle=59.20, simpleqa=51.53),
            _row("Qwen2.5-32B-Instruct", "after RL", hotpotqa=46.14, musique=20.22, bamboogle=65.07, simpleqa=67.58),
        ),
    ),
    Paper(
        "Search-R1",
        "arXiv 2503.09516, table 2",
        "Wikipedia of 2018, retriever E5, 3 passages a search; trained on NQ and HotpotQA",
        (
            _seven("Qwen2.5-7B", "RAG", 34.9, 58.5, 39.2, 29.9, 23.5, 5.8, 20.8),
            _seven("Qwen2.5-7B", "base, PPO", 48.0, 63.8, 45.7, 43.3, 38.2, 19.6, 43.2),
            _seven("Qwen2.5-7B", "instruct, PPO", 39.3, 61.0, 39.7, 37.0, 41.4, 14.6, 36.8),
            _seven("Qwen2.5-3B", "base, PPO", 40.6, 58.7, 43.5, 28.4, 27.3, 4.9, 8.8),
            _seven("Qwen2.5-3B", "instruct, PPO", 34.1, 54.5, 37.8, 32.4, 31.9, 10.3, 26.4),
        ),
    ),
    Paper(
        "ZeroSearch",
        "arXiv 2505.04588, table 3",
        "Google's results, 5 documents a search; trained with a simulated search engine",
        (
            _seven("Qwen2.5-7B", "RAG", 27.4, 58.2, 17.8, 25.8, 23.2, 9.4, 16.8),
            _seven("Qwen2.5-7B", "base", 42.4, 66.4, 60.4, 32.0, 34.0, 18.0, 33.33),
            _seven("Qwen2.5-7B", "instruct", 43.6, 65.2, 48.8, 34.6, 35.2, 18.4, 27.78),
            _seven("Qwen2.5-3B", "base", 43.0, 61.6, 41.4, 33.8, 34.6, 13.0, 13.89),
            _seven("Qwen2.5-3B", "instruct", 41.4, 57.4, 44.8, 27.4, 30.0, 9.8, 11.11),
        ),
    ),
)
