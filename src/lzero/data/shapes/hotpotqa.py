"""HotpotQA's rows, and 2WikiMultihopQA's: a question with paragraphs as lists of sentences.

    {"_id": …, "question": …, "answer": …, "type": "bridge", "level": "hard",
     "context": [["title", ["sentence", …]], …], "supporting_facts": [["title", 0], …]}

Parquet files have columns instead of pairs: `"context": {"title": […], "sentences": [[…], …]}`; some hold them as a text of JSON.
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import BadShape, columns_of, others, titles
from lzero.data.values import shown

NAME = "HotpotQA"
HOPS = {"bridge": 2, "comparison": 2, "compositional": 2, "inference": 2, "bridge_comparison": 4}
"""Kind of a question → hops; the last three are 2WikiMultihopQA's."""
LEVELS = {"easy": 1.0, "medium": 2.0, "hard": 3.0}
_USED = ("_id", "context", "supporting_facts", "evidences", "evidences_id", "entity_ids", "answer_id")


def matches(fields: Fields) -> bool:
    return "question" in fields and "context" in fields and "supporting_facts" in fields


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    found = others(fields, *_USED) | with_context(fields)
    if "_id" in fields:
        found["id"] = fields["_id"]
    return found


def with_context(fields: Fields) -> Fields:
    """Return passages, gold titles, hops and difficulty, from the fields that also other shapes take over. Raises BadShape."""
    facts = columns_of("supporting_facts", fields.get("supporting_facts") or [], "title", "sent_id", "sent_idx")
    kind, level = fields.get("type"), fields.get("level")
    found: Fields = {
        "passages": [each for each in (_passage(*pair) for pair in _paragraphs(fields)) if each["text"]],
        "hops": HOPS.get(kind) if isinstance(kind, str) else None,
        "difficulty": LEVELS.get(level) if isinstance(level, str) else None,
        **titles([title for title, _ in facts]),
    }
    return {name: value for name, value in found.items() if value not in (None, [])}


def _paragraphs(fields: Fields) -> list[tuple[object, object]]:
    return columns_of("context", fields.get("context") or [], "title", "sentences", "content")


def _passage(title: object, sentences: object) -> Fields:
    parts = sentences if isinstance(sentences, list) else [sentences]
    texts = [part.strip() for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        wrong = next(part for part in parts if not isinstance(part, str))
        raise BadShape("context", f"holds {shown(wrong)} among the sentences of {title!r:.60}: give texts")
    return {"title": title, "text": " ".join(texts)}
