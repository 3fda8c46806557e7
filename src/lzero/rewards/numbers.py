"""Finds and normalises numbers in answers: `-1,234.50`, `3×10⁴`, `1 1/2`, `5 km`, `-$5`, `29.0`.

    answer ──plain──▶ text ──find──▶ Number(start, end, value, unit, currency, operator) …

All spellings of a number have one form; another value or unit has another form. The rules:

    29.0, 29, .5, 1e3, 10³, 3×10⁴, 1/2, ½, 1 1/2   by value; a fraction that does not end stays one (1/3 is not 0.333)
    1,000  1 000  1'000  1_000         1000, in whole groups of three; 1,5 and (1,200) are lists, 1.000 is 1
    5 million, 5 % = 5 percent, 5 km = 5km = 5 kilometres, 5 m² = 5 m^2       the value in the unit; units are not converted
    $5, 5 $, 5 dollars                 5, but not 5 €: a currency that one side leaves out is no difference
    −5, -$5, $-5, minus 5              -5. A sign counts before a number wherever it stands; ±5 is not 5; (5) is 5
    2-3, 2 - 3, 2 – 3                  2 - 3 (a difference, or a range), which is not the list 2, -3
    007, 01.50, 1.2.3, 10:30           as they are spelled: codes, versions, times
    2024-01-05, 2024/1/5               a date, which is the list 2024, 1, 5; digits with other dashes (555-12-34) are a list, too
    Python 3.10                        as spelled: after a name, the digits may be a version (3.10 is not 3.1)
    COVID-19, MP3                      a name and a number: COVID 19, MP 3; F-16 and F16 are one word
    ~5, ≈5, 5-, 18+                    not 5, nor 18 (`lzero.rewards.signs` has the signs of other terms)
    inf, ∞, infinity, pi, π            with their sign; 2π is 2 pi; i and j of complex numbers are one

With `by_value=False` digits are compared as they are spelled, except for thousands separators, scripts of digits and units.

Every step takes linear time, and no number is expanded: 1e999999999 stays the digit 1 with an exponent.
"""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

from msgspec import Struct

from lzero.rewards.units import CURRENCIES, UNITS, currency_of, unit_of
from lzero.text import fold

PLAIN_ZEROS = 40
"""Largest power of ten that a form writes as zeros; a larger one stays an exponent."""
SMALL_DIGITS = 15
"""Largest number of digits in fractions and powers that are computed; longer ones stay as they are spelled."""
LARGEST_POWER = 64
LARGEST_EXPONENT = 10**10
MAX_BRACKETS = 4

_WORDS = {
    **dict.fromkeys("≤⩽", " <= "),
    **dict.fromkeys("≥⩾", " >= "),
    "≠": " != ",
    "≈": " ~",
    "∞": " inf ",
    "√": " sqrt",
    "‰": " permille ",
}
_SYMBOLS = str.maketrans("‐‑‒–—―−﹣－×⋅·∗÷∕⁄’′٫٬٪", "---------****///''.,%") | str.maketrans(_WORDS)
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_SUBSCRIPT = re.compile("(?<=[0-9])[₀-₉]+")
_PLUS_MINUS = re.compile(r"\+ ?/ ?-|\+-(?=[\d.])")
_POWER_OF_A_VARIABLE = re.compile(r"(?<=[ijkntxyz])(?<![^\W\d_][ijkntxyz])\^(?=\d)")
_POWER_OF_A_WORD = re.compile(r"(?<=[^\W\d_])\^(?=\d)")
_TERM = r"[ijkntxyz](?![^\W_])"
_BETWEEN_TERMS = re.compile(rf"(?P<left>(?<![^\W_])(?:\d*{_TERM})|\)|(?<![^\W_])\d+) ?(?P<sign>[-+]) ?(?={_TERM})")
_AFTER_VARIABLE = re.compile(r"(?P<left>(?<![^\W_])\d*[ijkntxyz])(?: ?(?P<spaced>[-+]) |(?P<glued>[-+]))(?=\d)")
_MEGA = re.compile(r"(?<=\d) ?M(?=(?:Wh?|V|J|Pa|Hz|eV|N)\b)")
_PI = re.compile(r"(?<![^\W\d_])π(?![^\W\d_])")
_MINUS_BY_PI = re.compile(r"(?<=\d)-(?=pi(?!\w))|(?<=\bpi)-(?=\d)")
_TIMES_PI = re.compile(r"(?<=\d) ?\*? ?pi(?!\w)")
_NUMBERED_WORD = re.compile(
    rf"(?<!\d )(?<![^\W_])(?<!/)(?!(?:pi|inf|infinity|{CURRENCIES}|utc|gmt)-)(?P<word>[^\W\d_]{{2,}}+)-?(?=\d++(?![\w/]))"
)
_REPR = re.compile(r"(?<!\w)(?:decimal|(?:np|numpy)\.\w{1,20})\(['\"]?(?P<inner>[^()'\"]{1,400})['\"]?\)")
_FRACTION_REPR = re.compile(r"(?<!\w)fraction\((?P<over>-?\d+), (?P<under>\d+)\)")
_COMPARISON = re.compile(r"(?<![-=<>!])(?P<sign><=|>=|!=|=|<|>)(?![<>=]|-(?![\d.$€£¥]))")
_COMPARED = frozenset("<>=")
_CLOSING = {"(": ")", "[": "]", "{": "}"}

_GROUPS = (
    r"(?:(?<!\d,)(?>[1-9]\d{0,2}(?:,\d{3})+)(?!,?\d)"
    r"|(?<!\d )(?>[1-9]\d{0,2}(?: \d{3})+)(?! ?\d)"
    r"|(?<!\d')(?>[1-9]\d{0,2}(?:'\d{3})+)(?!'?\d)"
    r"|(?>[1-9]\d{0,2}(?:_\d{3})+)(?!_?\d)"
    r"|(?>\d+))"
)
_EXPONENT = r"[({{]?(?P<{}>[-+]?\d{{1,12}})[)}}]?(?!\.?\d)"


def _pattern(integer: str) -> re.Pattern[str]:
    small = rf"\d{{1,{SMALL_DIGITS}}}(?!\d)"
    return re.compile(
        r"(?<![^\W_])(?<![^\W_][._])(?<![^\W\d_]-)(?:"
        r"(?P<code>(?<!\d[-/.:])(?>\d+(?:(?::\d+)+|(?P<dash>[-/.])\d+(?:(?P=dash)\d+)+))(?![-/:.]?\d))"
        rf"|(?<!\d )(?<!\d/)(?P<whole>{small}) (?P<part>{small}/{small})(?!/)"
        rf"|(?<!\d/)(?P<fraction>{small}/{small})(?!/)"
        rf"|(?P<root>sqrt ?\(? ?)?(?P<decimal>(?>{integer}(?:\.\d+)?|\.\d+))(?:e(?P<e>[-+]?\d{{1,12}})(?!\d))?"
        rf"(?: ?[*x] ?10 ?(?:\^|\*\*) ?{_EXPONENT.format('ten')}| ?(?:\^|\*\*) ?{_EXPONENT.format('power')})?"
        r"|(?P<word>inf(?:inity)?|pi)(?!\w|-[^\W\d_]))"
        r"(?: ?(?P<scale>thousand|million|billion|trillion)(?!\w))?"
        rf"(?: ?(?P<after>{CURRENCIES})(?!\w))?"
        rf"(?: ?(?P<unit>{UNITS})(?![\w/]))?"
        r"(?P<suffix>°?(?:[-']?[^\W\d_](?:[^\W_]|\.(?=\d))*+)*+)(?![^\W_]|\.\d)"
    )


_GROUPED, _UNGROUPED = _pattern(_GROUPS), _pattern(r"(?>\d+)")
_LEAD = re.compile(
    rf"(?P<sign>(?<![^\W\d_]\+)[-+±∓~]|(?<!\w)(?:minus|negative)(?= ))? ?(?:(?<!\w)(?P<currency>{CURRENCIES}) ?(?P<inner>[-+±∓~])? ?)?\Z"
)
_LEAD_CHARS = 24
"""Maximum length of a number's sign and currency."""
_WORD_BEFORE = re.compile(r"(?:\A|(?<![^\W_]))(?P<word>[^\W\d_]+) \Z")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_CONNECTORS = frozenset(
    re.split(
        " ",
        "a about above an and answer approximately are around as at below between but by equals exactly from in is least most nearly of on "
        "only or over roughly than the times to total under value was were with x y z",
    )
)
"""Words after which a number is a quantity; after another word it may be part of a name."""


class Number(Struct, frozen=True, gc=False):
    """A number from `start` to `end` of a plain text, its sign and currency included."""

    start: int
    end: int
    value: str
    unit: str = ""
    currency: str = ""
    operator: str = ""
    """Operator between this number and the text before it: "-" in 2 - 3."""

    @property
    def form(self) -> str:
        return self.value + self.unit


def plain(answer: str) -> str:
    """Return the text folded, its digits and signs in ASCII, on one line, without brackets around the whole."""
    text = answer.translate(_SYMBOLS)
    if "+" in text:
        text = _PLUS_MINUS.sub("±", text)
    if not text.isascii():
        text = "".join(map(_respelled, _SUBSCRIPT.sub(_lowered, _SUPERSCRIPT.sub(_raised, text))))
    text = " ".join(text.split())
    if "π" in text:
        text = _PI.sub("pi", text)
    if "+" in text or "-" in text:
        text = _BETWEEN_TERMS.sub(r"\g<left> \g<sign> ", _AFTER_VARIABLE.sub(_parted, text))
    if "M" in text:
        text = _MEGA.sub("mega", text)
    folded = fold(text)
    if "(" in folded:
        folded = _FRACTION_REPR.sub(r" \g<over>/\g<under> ", _REPR.sub(r" \g<inner> ", folded))
    if "^" in folded:
        folded = _POWER_OF_A_WORD.sub("", _POWER_OF_A_VARIABLE.sub(" ^ ", folded))
    if "pi" in folded:
        folded = _TIMES_PI.sub("pi", _MINUS_BY_PI.sub(" - ", folded))
    folded = _NUMBERED_WORD.sub(r"\g<word> ", folded)
    if not _COMPARED.isdisjoint(folded):
        folded = _COMPARISON.sub(r" \g<sign> ", folded)
    return " ".join(folded.split())


def unwrapped(text: str) -> str:
    """Return a plain text without the brackets around the whole of it, a few at most: `unwrapped("[-1, 2]") == "-1, 2"`."""
    for _ in range(MAX_BRACKETS):
        if len(text) < 2 or _CLOSING.get(text[0]) != text[-1] or not _is_one_bracket(text):
            break
        text = text[1:-1].strip()
    return text


def find(text: str, *, is_list: bool, by_value: bool) -> Iterator[Number]:
    """Yield the numbers of a plain text, in order. In a list, no comma or space is a thousands separator."""
    end = 0
    pattern = _UNGROUPED if is_list else _GROUPED
    for match in pattern.finditer(text):
        lead = _LEAD.search(text, max(end, match.start() - _LEAD_CHARS), match.start())
        assert lead is not None, "it may be empty"
        sign, operator = _sign(text, lead, end)
        named = lead.group() in ("", " ") and _is_named(text[max(end, match.start() - 40) : match.start()])
        body = _value(match, named=named) if by_value else None
        value = _spelled(match) if body is None else body
        is_zero = value == "0"
        yield Number(
            start=lead.start(),
            end=match.end(),
            value=value if is_zero else sign + value,
            unit=_unit(match, scaled=body is not None),
            currency=currency_of(match["after"] or lead["currency"]) if match["after"] or lead["currency"] else "",
            operator=operator,
        )
        end = match.end()


def _respelled(character: str) -> str:
    """Respell a non-ASCII character in ASCII, so that its digits do not join adjacent ones: `½` becomes ` 1/2 `, `٣` becomes `3`."""
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "No":
        return f" {unicodedata.normalize('NFKC', character).replace('⁄', '/')} "
    return character


def _raised(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    digits = unicodedata.normalize("NFKC", match.group()).replace("−", "-")
    return f"^{digits}" if before.isalnum() or before == ")" else f" {digits}"


def _parted(match: re.Match[str]) -> str:
    return f"{match['left']} {match['spaced'] or match['glued']} "


def _lowered(match: re.Match[str]) -> str:
    return f" base{unicodedata.normalize('NFKC', match.group())} "


def _is_one_bracket(text: str) -> bool:
    """Return whether the last character closes the bracket at the beginning."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in _CLOSING) - (character in _CLOSING.values())
        if depth == 0:
            return index == len(text) - 1
    return False


def _sign(text: str, lead: re.Match[str], end: int) -> tuple[str, str]:
    """Return (sign of the number, operator before it). `end`: where the previous number ends."""
    inner = lead["inner"] or ""
    sign = {"minus": "-", "negative": "-"}.get(lead["sign"] or "", lead["sign"] or "")
    if not sign:
        between = text[end : lead.start()].strip() if end else ""
        return inner.replace("+", ""), between if between in ("*", "/", "^") else ""
    before, place = text[end : lead.start("sign")], lead.start("sign")
    is_term, is_word = _operand(before, end)
    is_glued = place + len(lead["sign"]) < len(text) and text[place + len(lead["sign"])] != " "
    is_spaced = text[place - 1 : place] == " "
    if is_term and lead["sign"] != "negative" and not (is_spaced and is_glued and lead["sign"] != "minus"):
        return inner.replace("+", ""), sign
    if is_word and not (is_spaced and is_glued) and len(lead["sign"]) == 1:
        return inner.replace("+", ""), ""  # a dash between words
    both = (sign + inner).replace("+", "")
    return "" if both == "--" else both[:1], ""


def _operand(before: str, end: int) -> tuple[bool, bool]:
    """Return whether a number, variable or bracket ends before a sign, and whether a word that is not a connector does."""
    stripped = before.rstrip()
    if not stripped:
        return end > 0, False
    if stripped[-1] in ")]%°":
        return True, False
    word = re.split(r"[\W_]", stripped)[-1]
    return len(word) == 1, len(word) > 1 and word not in _CONNECTORS


def _is_named(before: str) -> bool:
    found = _WORD_BEFORE.search(before)
    return found is not None and found["word"] not in _CONNECTORS


def _unit(match: re.Match[str], *, scaled: bool) -> str:
    scale = "" if scaled or not match["scale"] else f" {match['scale']}"
    if match["word"] and match["unit"]:
        scale += " "
    suffix = re.sub("[-']", "", match["suffix"])
    unit = match["unit"] or (suffix if re.fullmatch(UNITS, suffix) else "")  # 5-kilometre
    if unit:
        return scale + unit_of(unit)
    return scale + ("i" if suffix == "j" else suffix)


def _value(match: re.Match[str], *, named: bool) -> str | None:
    """Return the one spelling of a number's value; None if it stays as it is spelled."""
    shift = _SCALES.get(match["scale"], 0)
    if match["code"]:
        return None if shift else _date(match["code"], match["dash"])
    if match["fraction"] or match["part"]:
        over, under = map(int, (match["fraction"] or match["part"]).split("/"))
        if under == 0 or (match["part"] and over >= under):
            return None
        return _fraction(Fraction(over, under) + int(match["whole"] or 0), shift)
    if match["word"]:
        return None
    digits = re.sub(r"[^\d.]", "", match["decimal"])
    is_code = len(digits) > 1 and digits[0] == "0" and digits[1] != "."
    is_plain = digits == match["decimal"] and not (match["e"] or match["ten"] or match["power"] or match["scale"])
    if is_code or match["root"] or (named and is_plain and not (match["unit"] or match["after"])):
        return None
    shift += int(match["e"] or 0) + int(match["ten"] or 0)
    significant, exponent = _decimal(digits)
    if abs(shift) > LARGEST_EXPONENT:
        return None
    if match["power"]:
        return _power(significant, exponent, int(match["power"]), shift)
    return _rendered(significant, exponent + shift)


def _spelled(match: re.Match[str]) -> str:
    """Return a number as it is spelled, without thousands separators and spaces."""
    if match["code"]:
        return match["code"] if match["dash"] in (None, ".") else ", ".join(match["code"].split(match["dash"]))
    if match["part"]:
        return f"{match['whole']} {match['part']}"
    if match["fraction"]:
        return match["fraction"]
    if match["word"]:
        return match["word"][:3]
    ending = "".join(
        f"{name}{match[group]}" for group, name in (("e", "e"), ("ten", "*10^"), ("power", " ^ ")) if match[group]
    )
    return ("sqrt" if match["root"] else "") + re.sub(r"[^\d.]", "", match["decimal"]) + ending


def _date(code: str, dash: str | None) -> str | None:
    parts = code.split(dash) if dash else []
    if len(parts) == 3 and len(parts[0]) == 4 and parts[0][0] != "0" and all(1 <= len(part) <= 2 for part in parts[1:]):
        month, day = int(parts[1]), int(parts[2])
        if 1 <= month <= 12 and 1 <= day <= 31:
            return f"{parts[0]}, {month}, {day}"
    return None


def _decimal(digits: str) -> tuple[str, int]:
    """Return significant digits and power of ten: `_decimal("0.50") == ("5", -1)`."""
    integer, _, part = digits.partition(".")
    significant = (integer + part).lstrip("0")
    shortest = significant.rstrip("0")
    return (shortest, len(significant) - len(shortest) - len(part)) if shortest else ("0", 0)


def _rendered(digits: str, exponent: int) -> str:
    if digits == "0":
        return "0"
    point = len(digits) + exponent
    if 0 <= exponent <= PLAIN_ZEROS:
        return digits + "0" * exponent
    if exponent < 0 < point:
        return f"{digits[:point]}.{digits[point:]}"
    if -PLAIN_ZEROS < point <= 0:
        return f"0.{'0' * -point}{digits}"
    return f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1}"


def _fraction(value: Fraction, shift: int = 0) -> str | None:
    value *= Fraction(10) ** shift
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest == 1:
        significant, exponent = _decimal(str(value.numerator * 10**places // value.denominator))
        return _rendered(significant, exponent - places)
    parts = f"{value.numerator}/{value.denominator}"
    return parts if max(map(len, parts.split("/"))) <= SMALL_DIGITS else None


def _power(digits: str, exponent: int, power: int, shift: int) -> str | None:
    if digits == "1":
        total = exponent * power + shift
        return _rendered("1", total) if abs(total) <= LARGEST_EXPONENT else None
    if (
        len(digits) > SMALL_DIGITS
        or abs(exponent) > SMALL_DIGITS
        or abs(power) > LARGEST_POWER
        or abs(shift) > PLAIN_ZEROS
    ):
        return None
    if digits == "0" and power < 0:
        return None
    return _fraction(Fraction(int(digits)) ** power * Fraction(10) ** (exponent * power), shift)
