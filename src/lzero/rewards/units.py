"""Units and currencies with their aliases. The list is short on purpose: any other unit is an ordinary word."""

import re

_NAMES = {
    "%": "percent per-cent pct",
    "‰": "permille",
    "°": "degrees degree deg",
    "°c": "degrees-celsius degrees-c celsius centigrade",
    "°f": "degrees-fahrenheit degrees-f fahrenheit",
    "mm": "millimetres millimetre millimeters millimeter",
    "cm": "centimetres centimetre centimeters centimeter",
    "m": "metres metre meters meter",
    "km": "kilometres kilometre kilometers kilometer",
    "mi": "miles mile",
    "ft": "feet foot",
    "mg": "milligrams milligram",
    "g": "grams gram",
    "kg": "kilograms kilogram kgs kilos",
    "lb": "lbs",
    "ml": "millilitres millilitre milliliters milliliter",
    "l": "litres litre liters liter",
    "ms": "milliseconds millisecond",
    "s": "seconds second secs sec",
    "min": "minutes minute mins",
    "h": "hours hour hrs hr",
    "hz": "hertz",
    "khz": "kilohertz",
    "w": "watts watt",
    "kw": "kilowatts kilowatt",
    "v": "volts volt",
    "km/h": "kmh kph",
    "mph": "",
    "¢": "cents cent",
}
_CURRENCIES = {
    "$": "us$ usd dollars dollar",
    "€": "eur euros euro",
    "£": "gbp",
    "¥": "jpy yen",
    **dict.fromkeys(("₹", "₩", "₽", "₺", "₪", "฿", "₫", "a$", "c$", "hk$", "nz$", "s$", "chf", "cny"), ""),
}


def _called(names: dict[str, str]) -> dict[str, str]:
    """Return alias → name, each name itself included."""
    aliases = {alias.replace("-", " "): name for name, listed in names.items() for alias in listed.split()}
    return aliases | {name: name for name in names}


def _any(names: dict[str, str]) -> str:
    return "|".join(re.escape(name).replace(r"\ ", " ") for name in sorted(names, key=len, reverse=True))


_UNIT_OF, _CURRENCY_OF = _called(_NAMES), _called(_CURRENCIES)
_ONE = rf"(?:{_any(_UNIT_OF)})(?:\^?[23])?"
NAMES_OF_UNITS = frozenset(word for name in (*_UNIT_OF, *_CURRENCY_OF) for word in name.split())
"""Every word in a name of a unit or currency."""
UNITS = rf"{_ONE}(?: ?(?:/|per) ?(?:{_ONE}))?"
"""Regular expression of a unit, its square or cube, or a unit per another."""
CURRENCIES = rf"(?:{_any(_CURRENCY_OF)})"


def unit_of(found: str) -> str:
    """Return the canonical name of a match of UNITS: `unit_of("kilometres per hour") == "km/h"`, `unit_of("m^2") == "m2"`."""
    if found in _UNIT_OF:
        return _UNIT_OF[found]
    parts = re.split(r" ?(?:/|(?<=\w) ?\bper\b) ?", found)
    return "/".join(_UNIT_OF.get(part, _UNIT_OF.get(part.rstrip("^23"), part) + part[-1]) for part in parts)


def currency_of(found: str) -> str:
    """Return the canonical name of a match of CURRENCIES: `currency_of("euros") == "€"`."""
    return _CURRENCY_OF[found]
