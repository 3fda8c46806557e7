"""Values of rows, as tasks hold them and as messages show them."""

from decimal import Decimal

LARGEST_WHOLE = 2**53
"""Below it, a float holds every whole number."""


def written(value: float | Decimal) -> str:
    """Return a number as a person writes it: `written(5.0) == "5"`. A column of floats cannot store whole numbers otherwise."""
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return (
        str(int(value))
        if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE
        else str(value)
    )


def shown(value: object) -> str:
    """Return a value as an error message shows it: a list as "a list", a text by its first characters."""
    kinds = {type(None): "nothing", bool: "true or false", dict: "an object", list: "a list"}
    return kinds.get(type(value)) or f"{value!r:.60}"
