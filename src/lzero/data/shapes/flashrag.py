"""FlashRAG's rows.

    {"id": "dev_0", "question": …, "golden_answers": […], "metadata": {…}}

The metadata of a multi-hop question has the fields of HotpotQA's shape.
"""

from lzero.data.formats import Fields
from lzero.data.shapes.hotpotqa import with_context
from lzero.data.shapes.parts import items, others

NAME = "FlashRAG"


def matches(fields: Fields) -> bool:
    return "question" in fields and "golden_answers" in fields


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    found = others(fields, "golden_answers") | {"answers": list(items("golden_answers", fields["golden_answers"]))}
    metadata = fields.get("metadata")
    if isinstance(metadata, dict) and "context" in metadata:
        found |= with_context(metadata)
        found["metadata"] = others(metadata, "context", "supporting_facts", "evidences")
    return found
