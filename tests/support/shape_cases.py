"""Rows as other projects and data sets write them, and the task that each becomes."""

import json

from lzero.types import Passage, Task

CONTEXT = [
    ["Liri", ["Liri is a place.", " Its founder is Titu."]],
    ["Titu", ["Titu was born in Kato."]],
    ["Void", [""]],
]
PASSAGES = (
    Passage(title="Liri", text="Liri is a place. Its founder is Titu."),
    Passage(title="Titu", text="Titu was born in Kato."),
)
FACTS = [["Liri", 1], ["Titu", 0], ["Liri", 0]]
GOLD = {"supporting_titles": '["Liri","Titu"]'}
ASKED = {"question": "Where was Liri's founder born?", "answer": "Kato"}
AS_COLUMNS = {
    "context": {"title": [title for title, _ in CONTEXT], "sentences": [texts for _, texts in CONTEXT]},
    "supporting_facts": {"title": [title for title, _ in FACTS], "sent_id": [number for _, number in FACTS]},
}
HOTPOT = Task(
    id="5a",
    question=ASKED["question"],
    answers=("Kato",),
    source="rows",
    hops=2,
    difficulty=3.0,
    passages=PASSAGES,
    metadata={"type": "bridge", "level": "hard", **GOLD},
)
MESSAGES = [{"role": "system", "content": "Think."}, {"role": "user", "content": "How many? Put it last."}]


def task(**fields: object) -> Task:
    return Task(**({"id": "rows-1", "source": "rows", "answers": ("Kato",), "question": "Who?"} | fields))  # type: ignore[arg-type]


CASES: list[tuple[str, dict[str, object], Task]] = [
    (
        "HotpotQA",
        {"_id": "5a", **ASKED, "type": "bridge", "level": "hard", "context": CONTEXT, "supporting_facts": FACTS},
        HOTPOT,
    ),
    ("HotpotQA", {"id": "5a", **ASKED, "type": "bridge", "level": "hard", **AS_COLUMNS}, HOTPOT),
    (
        "HotpotQA",
        {
            "_id": "8f",
            **ASKED,
            "type": "bridge_comparison",
            "evidences": [["Liri", "founder", "Titu"]],
            "context": json.dumps(CONTEXT),
            "supporting_facts": json.dumps(FACTS),
            "answer_id": "Q1",
        },
        task(
            id="8f",
            question=ASKED["question"],
            hops=4,
            passages=PASSAGES,
            metadata={"type": "bridge_comparison", **GOLD},
        ),
    ),
    (
        "MuSiQue",
        {
            "id": "2hop__1_2",
            **ASKED,
            "answer_aliases": ["K."],
            "answerable": True,
            "paragraphs": [
                {"idx": 0, "title": "Liri", "paragraph_text": "founder Titu", "is_supporting": True},
                {"idx": 1, "title": "Umi", "paragraph_text": "a river", "is_supporting": False},
            ],
            "question_decomposition": [{"id": 1, "question": "Liri >> founder"}, {"id": 2, "question": "#1 >> born"}],
        },
        task(
            id="2hop__1_2",
            question=ASKED["question"],
            answers=("Kato", "K."),
            hops=2,
            passages=(Passage(title="Liri", text="founder Titu"), Passage(title="Umi", text="a river")),
            metadata={"answerable": "True", "supporting_titles": '["Liri"]'},
        ),
    ),
    (
        "SQuAD",
        {
            "id": "s1",
            "title": "Liri",
            "context": "Kato founded it.",
            "question": "Who?",
            "answers": {"text": ["Kato", "Kato", "K."], "answer_start": [0, 0, 0]},
        },
        task(id="s1", answers=("Kato", "K."), passages=(Passage(title="Liri", text="Kato founded it."),)),
    ),
    (
        "TriviaQA",
        {
            "question_id": "tc_1",
            "question": "Who?",
            "question_source": "www",
            "answer": {
                "value": "Kato",
                "aliases": ["K.", "Kato"],
                "normalized_aliases": ["k"],
                "type": "WikipediaEntity",
            },
        },
        task(id="tc_1", answers=("Kato", "K."), metadata={"question_source": "www"}),
    ),
    (
        "TriviaQA",
        {
            "QuestionId": "tc_1",
            "Question": "Who?",
            "Answer": {"Value": "Kato", "Aliases": ["K."]},
            "QuestionSource": "x",
        },
        task(id="tc_1", answers=("Kato", "K."), metadata={"QuestionSource": "x"}),
    ),
    (
        "FlashRAG",
        {"id": "dev_0", "question": "Who?", "golden_answers": ["Kato", "K."]},
        task(id="dev_0", answers=("Kato", "K.")),
    ),
    (
        "FlashRAG",
        {
            "id": "dev_0",
            "question": ASKED["question"],
            "golden_answers": ["Kato"],
            "metadata": {"type": "bridge", "level": "hard", **AS_COLUMNS},
        },
        task(
            id="dev_0", question=ASKED["question"], hops=2, difficulty=3.0, passages=PASSAGES, metadata=HOTPOT.metadata
        ),
    ),
    (
        "verl",
        {
            "data_source": "mine/math",
            "prompt": MESSAGES,
            "ability": "MATH",
            "reward_model": {"style": "rule", "ground_truth": "72"},
            "extra_info": {"split": "train", "index": 4},
        },
        task(
            id="mine/math-train-4",
            question="How many? Put it last.",
            answers=("72",),
            source="mine/math",
            split="train",
            ability="math",
        ),
    ),
    (
        "verl",
        {
            "data_source": "nq",
            "prompt": "Who? Answer shortly.",
            "ability": "fact-reasoning",
            "reward_model": {"ground_truth": ["Kato", "K."]},
            "extra_info": {"index": 4, "question": "Who?"},
        },
        task(id="nq-4", answers=("Kato", "K."), source="nq", metadata={"kind": "fact-reasoning"}),
    ),
    (
        "Search-R1",
        {
            "id": "train_0",
            "question": "Who?",
            "golden_answers": ["Kato"],
            "data_source": "nq",
            "prompt": MESSAGES,
            "ability": "fact-reasoning",
            "reward_model": {"style": "rule", "ground_truth": {"target": ["Kato", "K."]}},
            "extra_info": {"index": 0, "split": "train"},
        },
        task(id="nq-train_0", answers=("Kato", "K."), source="nq", split="train", metadata={"kind": "fact-reasoning"}),
    ),
    (
        "PopQA",
        {
            "id": 4222362,
            "subj": "Titu",
            "prop": "occupation",
            "question": "Who?",
            "possible_answers": '["Kato", "K."]',
            "s_pop": 142,
        },
        task(
            id="4222362",
            answers=("Kato", "K."),
            metadata={"subj": "Titu", "prop": "occupation", "s_pop": "142"},
        ),
    ),
    (
        "SimpleQA",
        {
            "metadata": "{'topic': 'Art', 'answer_type': 'Person', 'urls': ['http://x']}",
            "problem": "Who?",
            "answer": "Kato",
        },
        task(metadata={"topic": "Art", "answer_type": "Person"}),
    ),
    (
        "MATH",
        {
            "problem": "What is $x$?",
            "level": "Level 5",
            "type": "Algebra",
            "solution": r"It is \boxed{1}, no: $\boxed{\frac{1}{2}}$.",
        },
        task(
            question="What is $x$?",
            answers=(r"\frac{1}{2}",),
            difficulty=5.0,
            ability="math",
            metadata={"type": "Algebra", "level": "Level 5"},
        ),
    ),
    (
        "MATH",
        {
            "problem": "?",
            "level": 2,
            "subject": "Algebra",
            "solution": "so $x$",
            "answer": "7",
            "unique_id": "test/a/1.json",
        },
        task(
            id="test/a/1.json",
            question="?",
            answers=("7",),
            difficulty=2.0,
            ability="math",
            metadata={"subject": "Algebra", "level": "2"},
        ),
    ),
    (
        "GAIA",
        {
            "task_id": "c6",
            "Question": "Who?",
            "Level": "2",
            "Final answer": "Kato",
            "file_name": "",
            "Annotator Metadata": {"Steps": "1. Kato is it"},
        },
        task(id="c6", difficulty=2.0, ability="search"),
    ),
    ("Bamboogle", {"Question": "Who?", "Answer": "Kato"}, task(hops=2)),
    ("GSM8K", {"question": "Who?", "answer": "48+24 = <<48+24=72>>72\n#### 72"}, task(answers=("72",), ability="math")),
]
"""Name of the shape, a row, and its task in `rows.jsonl`."""
