"""verl's rows.

    {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": …}], "ability": "math",
     "reward_model": {"style": "rule", "ground_truth": "72"}, "extra_info": {"split": "train", "index": 0, "question": …}}

The question is `question` or `extra_info.question` if there is one, because a prompt adds instructions to it; else the last user message.
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import BadShape, items, others, table
from lzero.data.values import shown
from lzero.types import ABILITIES

NAME = "verl"
_USED = ("prompt", "reward_model", "data_source", "extra_info", "ability", "golden_answers")


def matches(fields: Fields) -> bool:
    reward = fields.get("reward_model")
    return "prompt" in fields and isinstance(reward, dict) and "ground_truth" in reward


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    extra, ability = fields.get("extra_info"), fields.get("ability")
    extra = extra if isinstance(extra, dict) else {}
    found = others(fields, *_USED)
    found["answers"] = table("reward_model", fields["reward_model"])["ground_truth"]
    found["question"] = fields.get("question") or extra.get("question") or _last_message(fields["prompt"])
    if isinstance(ability, str):
        found |= {"ability": ability} if ability.lower() in ABILITIES else {"kind": ability}
    source, split = fields.get("data_source"), extra.get("split")
    number = fields.get("id", extra.get("index"))
    if isinstance(source, str) and source:
        found["source"] = source
    if isinstance(split, str) and split:
        found["split"] = split
    if isinstance(number, str | int):  # it is one of a source and a split, and a file may have several
        parts = (source, "" if str(number).startswith(str(split)) else split, number)
        found["id"] = "-".join(str(part) for part in parts if part not in (None, ""))
    return found


def _last_message(prompt: object) -> object:
    if isinstance(prompt, str):
        return prompt
    for message in reversed(items("prompt", prompt)):
        if isinstance(message, dict) and message.get("role") == "user":
            return message.get("content")
    raise BadShape("prompt", f"holds {shown(prompt)} without a message of the user")
