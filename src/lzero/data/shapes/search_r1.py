"""Search-R1's rows: verl's, with the gold answers in `reward_model.ground_truth.target`."""

from lzero.data.formats import Fields
from lzero.data.shapes import verl
from lzero.data.shapes.parts import table

NAME = "Search-R1"


def matches(fields: Fields) -> bool:
    reward = fields.get("reward_model")
    truth = reward.get("ground_truth") if isinstance(reward, dict) else None
    return verl.matches(fields) and isinstance(truth, dict) and "target" in truth


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    truth = table("reward_model.ground_truth", table("reward_model", fields["reward_model"])["ground_truth"])
    return verl.convert(fields) | {"answers": truth["target"]}
