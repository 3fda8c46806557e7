"""Small copies of public data sets, written by hand after their published schemas: two or three rows a split."""

import json
from pathlib import Path

CONTEXT = [["Liri", ["Liri is a place.", " Its founder is Titu."]], ["Titu", ["Titu was born in Kato."]]]
HOTPOT = {
    "_id": "5a1",
    "question": "Where was Liri's founder born?",
    "answer": "Kato",
    "type": "bridge",
    "level": "hard",
    "context": CONTEXT,
    "supporting_facts": [["Liri", 1], ["Titu", 0]],
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "Where was the founder of Liri born?",
    "answer": "Kato",
    "answer_aliases": ["City of Kato"],
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Liri", "paragraph_text": "Its founder is Titu.", "is_supporting": True},
        {"idx": 1, "title": "Umi", "paragraph_text": "A river.", "is_supporting": False},
    ],
    "question_decomposition": [
        {"id": 1, "question": "Liri >> founder", "answer": "Titu", "paragraph_support_idx": 0},
        {"id": 2, "question": "#1 >> place of birth", "answer": "Kato", "paragraph_support_idx": None},
    ],
}
TRIVIA = {
    "Answer": {
        "Aliases": ["Kato", "Kato City"],
        "NormalizedAliases": ["kato"],
        "Type": "WikipediaEntity",
        "Value": "Kato",
    },
    "EntityPages": [{"DocSource": "TagMe", "Filename": "Kato.txt", "Title": "Kato"}],
    "Question": "Which city is on the Umi?",
    "QuestionId": "tc_7",
    "QuestionSource": "http://quiz.example/",
    "SearchResults": [],
}
MATH = {"problem": "What is $1+1$?", "level": "Level 2", "type": "Algebra", "solution": "It is $\\boxed{2}$."}
GAIA = {
    "task_id": "c61d",
    "Question": "How many boats does the table list?",
    "Level": 1,
    "Final answer": "12",
    "file_name": "boats.csv",
    "Annotator Metadata": {"Steps": "1. Open it"},
}
TABLE = "port,boats\nNord,12\nSüd,9\n"
TEXTS = {
    "nq/NQ-open.dev.jsonl": '{"question": "who founded liri", "answer": ["Titu", "Titu of Kato"]}\n{"question": "who", "answer": []}\n',
    "popqa/popQA.tsv": "id\tsubj\tprop\tobj\tsubj_id\ts_aliases\ts_pop\tquestion\tpossible_answers\n"
    '42\tTitu\toccupation\tpolitician\t7\t"[""T.""]"\t142\tWhat is Titu\'s occupation?\t"[""politician"", ""pol""]"\n',
    "simpleqa/simple_qa_test_set.csv": "metadata,problem,answer\n"
    "\"{'topic': 'Art', 'answer_type': 'Person', 'urls': ['http://a', 'http://b']}\",\"Who painted \"\"Umi\"\"?\",Titu\n",
    "bamboogle/Bamboogle Prerelease - Sheet1.csv": "Question,Answer\nWho led Liri when Umi was found?,Titu\n",
    "gsm8k/train.jsonl": '{"question": "How many?", "answer": "1+1 = <<1+1=2>>2\\n#### 2"}\n',
    "gsm8k/test.jsonl": '{"question": "How many more?", "answer": "#### 1,024"}\n{"question": "?", "answer": "#### "}\n',
    "wikitablequestions/csv/200-csv/0.csv": TABLE,
    "wikitablequestions/data/random-split-1-train.tsv": "id\tutterance\tcontext\ttargetValue\n"
    "nt-0\twhich ports?\tcsv/200-csv/0.csv\tNord|S\\pd\n",
    "gaia/2023/validation/boats.csv": TABLE,
}


def write_copies(directory: Path) -> Path:
    """Write a copy of every public set, as its authors publish it. Return the directory."""
    two = {**HOTPOT, "_id": "8f2", "type": "compositional", "evidences": [["Liri", "founder", "Titu"]]}
    del two["level"]
    values: dict[str, object] = {
        "hotpotqa/hotpot_train_v1.1.json": [HOTPOT, {**HOTPOT, "_id": "5a2", "answer": ""}, HOTPOT],
        "hotpotqa/hotpot_dev_distractor_v1.json": [{**HOTPOT, "_id": "5b1"}],
        "2wikimultihopqa/dev.json": [two],
        "triviaqa/triviaqa-unfiltered/unfiltered-web-dev.json": {
            "Data": [TRIVIA],
            "Domain": "Web",
            "VerifiedEval": False,
        },
        "math/train/algebra/1.json": MATH,
        "math/train/geometry/1.json": {**MATH, "type": "Geometry"},
        "math/test/algebra/2.json": {**MATH, "solution": "no box"},
    }
    for name, value in values.items():
        _write(directory / name, json.dumps(value))
    _write(directory / "musique/musique_ans_v1.0_dev.jsonl", json.dumps(MUSIQUE) + "\n")
    _write(directory / "gaia/2023/validation/metadata.jsonl", json.dumps(GAIA) + "\n")
    for name, text in TEXTS.items():
        _write(directory / name, text)
    return directory


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
