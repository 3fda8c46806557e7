"""Numbers in answers: every spelling of a value matches, no other value does, and no text takes long."""

import string
import sys
from decimal import Decimal
from fractions import Fraction
from itertools import combinations

import pytest
from builders import make_episode
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lzero.config import RewardConfig, load_config
from lzero.errors import ConfigError
from lzero.rewards import exact_match, f1, make_reward, normalize
from lzero.rewards.answers import Numbers
from lzero.types import Task

SAME = [
    ["29", "29.0", "29.", "+29", " 29 ", "(29)", "29.00", "2.9e1", "2.9×10¹", "٢٩", "２９", "np.float64(29.0)", "Decimal('29.0')"],
    ["-5", "−5", "–5", "- 5", "-5.0", "minus 5", "negative 5", "-$5", "$-5", "−$ 5.00", "(-5)", "-5 $", "-5 dollars", "US$ -5"],
    ["1000", "1,000", "1,000.0", "1 000", "1\u202f000", "1'000", "1’000", "1_000", "1e3", "1E+03", "10^3", "10**3", "10³", "10^{3}"],
    ["1234567.5", "1,234,567.50", "1 234 567.5", "1.2345675e6", "1.2345675 × 10^6", "1.2345675·10⁶", "1.2345675x10^6"],
    ["0.5", ".5", "1/2", "½", "5e-1", "50/100", "2^-1", "5×10⁻¹", "Fraction(1, 2)", "0.50"],
    ["1.5", "1 1/2", "1½", "3/2", "1.50"],
    ["1/3", "2/6", "⅓"],
    ["1024", "2^10", "2¹⁰", "4**5"],
    ["5000", "5 thousand"],
    ["5000000", "5 million", "5,000,000", "5×10⁶", "0.005 billion"],
    ["5%", "5 %", "5.0 percent", "5 per cent", "５％"],
    ["5 km", "5km", "5.0 kilometres", "5 Kilometers"],
    ["5 m²", "5 m^2", "5m2", "5 m2"],
    ["5 m/s", "5m/s", "5 metres per second", "5 meters / sec"],
    ["-40 °C", "-40°C", "−40 degrees Celsius", "minus 40 °C"],
    ["5 €", "€5", "5 euros", "EUR 5", "€ 5.00"],
    ["(-1, 2)", "[-1, 2]", "-1, 2", "-1,2", "-1; 2", "{-1, 2.0}", "[-1  2]", "[-1. 2.]", "[np.float64(-1.0), np.int64(2)]"],
    ["(1,200)", "1, 200", "[1 200]"],
    ["2 + 3i", "2+3i", "(2+3j)", "2 + 3.0j"],
    ["1990-1995", "1990 – 1995", "1990—1995"],
    ["x = -5", "x=-5", "x = −5.0", "X = -5"],
    ["x < -5", "x<-5", "x < −5.0"],
    ["2x - y", "2x-y", "2.0x − y"],
    ["x²+3", "x^2 + 3", "x² + 3.0"],
    ["2π", "2 pi", "2pi", "2 * π"],
    ["-(5)", "-5", "−( 5 )"],
    ["-(1/2)", "-0.5", "-½"],
    ["COVID-19", "covid 19", "Covid19", "covid‑19"],
    ["AK-47", "AK47", "AK 47"],
    ["~5", "≈ 5", "~ 5.0"],
    ["2024-01-05", "2024/1/5", "2024.01.05"],
    ["555-123-4567", "555 123 4567"],
    ["-∞", "-inf", "−infinity", "-Infinity"],
    ["±5", "+/-5", "+-5", "± 5.0"],
    ["0", "-0.0", "0e7", "+0"],
    ["from -1 to 3", "from −1.0 to 3.00"],
    ["√2", "sqrt(2)", "sqrt 2"],
]  # fmt: skip
DIFFERENT = [
    ["5", "-5", "±5", "5%", "5 km", "5 m", "5 MW", "5 mW", "5A", "5!6", "> 5", "< 5", "≥ 5", "≠ 5", "05", "5/0", "1/5", "5th", "x + 5"],
    ["(1, 2)", "(-1, 2)", "(1, -2)", "12", "1.2", "1-2", "1/2", "1:2", "1²"],
    ["$5", "€5", "£5", "5¢"],
    ["x + 5", "x - 5", "x 5", "x 5 y"],
    ["7", "007", "0.07"],
    ["5", "~5", "5-", "5+"],
    ["1/2", "-(1/2)"],
    ["2 + 3i", "-(2 + 3i)", "-2 + 3i"],
    ["\\frac{1}{2}", "-\\frac{1}{2}"],
    ["x²", "x2", "x³", "-x²"],
    ["x + 1", "-(x + 1)", "-x + 1"],
    ["C++17", "C 17", "C17"],
    ["UTC-9", "UTC+9"],
    ["10 - (3 + x)", "10 + (3 + x)"],
    ["3-π", "3π", "3 + π", "π-3"],
    ["-(1,2)", "-1,2"],
    ["MP4/10", "MP 0.4"],
    ["ab1e5", "ab100000"],
    ["1000", "1, 000", "1,00", "1,0000", "1.000,0", "10³ m", "103", "10^-3"],
    ["1,200", "1, 200", "12,00", "1.2"],
    ["100 200 3000", "[100 200 300]", "100200300"],
    ["Windows 3.1", "Windows 3.10", "Windows 31", "Windows -3.1"],
    ["1.2.3", "1.23", "12.3", "1.2.30"],
    ["1/3", "0.333", "3"],
    ["1½", "11/2", "½"],
    ["101₂", "1012", "101"],
    ["2 + 3i", "2 - 3i", "2, 3i", "-2 + 3i"],
    ["2x - y", "2x + y", "-2x - y", "2x, y"],
    ["-2x^2", "2x^2", "-2x^3"],
    ["10:30", "1030", "10.30"],
    ["2024-01-05", "2024-05-01"],
    ["5 m^-1", "5 m", "5 /m"],
    ["-inf", "inf", "±inf"],
    ["√2", "-√2", "2"],
    ["1e999999999", "1e999999998", "1e-999999999", "-1e999999999"],
    ["about 40 degrees", "about -40 degrees", "about ±40 degrees"],
    ["30 000 000", "30 000", "30"],
]  # fmt: skip


@pytest.mark.parametrize("spellings", SAME, ids=lambda spellings: spellings[0])
def test_spellings_of_one_value_match_each_other(spellings: list[str]) -> None:
    for one, other in combinations(spellings, 2):
        assert exact_match(one, [other]), (one, other, normalize(one), normalize(other))
        assert exact_match(other, [one])
        assert f1(one, [other]) == 1.0


@pytest.mark.parametrize("answers", DIFFERENT, ids=lambda answers: answers[0])
@pytest.mark.parametrize("numbers", ["value", "text"])
def test_another_value_sign_or_unit_never_matches(answers: list[str], numbers: Numbers) -> None:
    for one, other in combinations(answers, 2):
        assert not exact_match(one, [other], numbers=numbers), (one, other, normalize(one, numbers=numbers))
        assert not exact_match(other, [one], numbers=numbers)


def test_a_currency_counts_where_both_answers_name_one() -> None:
    assert exact_match("5", ["€5"])
    assert exact_match("$5", ["5"])
    assert not exact_match("$5", ["€5"])
    assert f1("5 dollars", ["5 euros"]) == 0.5


def test_numbers_as_text_differ_by_their_digits_but_not_by_separators() -> None:
    for one, other in (("29.0", "29"), (".5", "0.5"), ("1e3", "1000"), ("1/2", "0.5"), ("2024-01-05", "2024-1-5")):
        assert not exact_match(one, [other], numbers="text")
    for one, other in (("1,000", "1000"), ("-$5", "-5"), ("(-1, 2)", "[-1, 2]"), ("5 km", "5km"), ("½", "1/2")):
        assert exact_match(one, [other], numbers="text")
    task = Task(id="t", question="?", answers=("29",))
    for numbers, score in (("value", 1.0), ("text", 0.0)):
        reward = make_reward(RewardConfig.model_validate({"numbers": numbers, "f1": 0.5}))
        assert reward(task, make_episode(answer="29.0")).score == score


NUMBERS = st.one_of(
    st.integers(),
    st.integers(min_value=-30, max_value=30),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False, allow_infinity=False),
)


@given(NUMBERS, NUMBERS)
@example(10**22, 1e22)
@example(2**53 + 1, float(2**53))
@example(-0.0, 0)
@example(Decimal("1E+500"), Decimal("1E+501"))
@example(float("inf"), -float("inf"))
def test_numbers_match_as_python_writes_them_iff_they_are_equal(
    x: int | float | Decimal, y: int | float | Decimal
) -> None:
    assert exact_match(str(x), [repr(y)]) == (Decimal(str(x)) == Decimal(str(y)))
    assert exact_match(str(x), [repr(x)])


@given(st.integers(-(10**12), 10**12), st.integers(0, 6), st.data())
def test_respelling_a_number_keeps_its_value(digits: int, places: int, data: st.DataObject) -> None:
    number = Decimal(digits).scaleb(-places)
    spellings = [
        str(number),
        f"{number:f}",
        f"{number:,f}",
        f"{number:e}",
        f"{number:f}0" if places else f"{number:f}.0",
    ]
    spellings += [f"{number:,f}".replace(",", mark) for mark in (" ", "'", "_", "\u202f")]
    spellings += [f"{abs(number):f} × 10^0" if number >= 0 else f"−{abs(number):f}"]
    spellings += [f"[{number:f}]", f"${number:f}", f"{number:f} $"]
    spellings += [str(Fraction(number))] if max(map(len, str(abs(Fraction(number))).split("/"))) < 15 else []
    one, other = data.draw(st.sampled_from(spellings)), data.draw(st.sampled_from(spellings))
    assert exact_match(one, [other]), (one, other)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3),
    st.sampled_from(["%", " km", " km/h", " apples", "€", "x"]),
    st.data(),
)
def test_changing_one_thing_of_a_number_never_matches(number: Decimal, unit: str, data: st.DataObject) -> None:
    assume(number != 0)
    text = f"{number:f}{unit}"
    digits = [index for index, character in enumerate(text) if character.isdigit()]
    place = data.draw(st.sampled_from(digits))
    digit = str((int(text[place]) + data.draw(st.integers(1, 9))) % 10)
    changed = text[:place] + digit + text[place + 1 :]
    assert not exact_match(changed, [text]), changed
    assert not exact_match(f"{-number:f}{unit}", [text])
    assert not exact_match(f"{number:f}e1{unit}", [text])
    assert unit == "€" or not exact_match(f"{number:f}", [text])
    assert not exact_match(f"{number:f} m", [text])


QUANTITIES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "-", "±", "$", "-€", "about ", "x = ", "minus "]),
    st.sampled_from(
        [
            "0",
            "5",
            "007",
            "3.50",
            ".25",
            "1,000",
            "1 000",
            "1e3",
            "10^-3",
            "3×10⁴",
            "1/3",
            "½",
            "2 1/2",
            "2^0.5",
            "1:30",
        ]
    ),
    st.sampled_from(["", "%", " km", "km/h", " m²", "th", " million", " €", "i", " apples"]),
)


@given(
    st.lists(QUANTITIES, min_size=1, max_size=4),
    st.sampled_from([", ", " + ", " - ", "; ", " to ", " the ", "\n"]),
    st.sampled_from(["{}", "[{}]", "({})", "the {}.", "{}!", "**{}**"]),
    st.sampled_from(["value", "text"]),
)
def test_a_form_is_its_own_form_and_matches(parts: list[str], mark: str, frame: str, numbers: Numbers) -> None:
    text = frame.format(mark.join(parts))
    form = normalize(text, numbers=numbers)
    assert normalize(form, numbers=numbers) == form
    assert exact_match(form, [text], numbers=numbers)
    assert f1(text, [text], numbers=numbers) == 1.0


@given(
    st.text(alphabet=string.digits + string.punctuation + "aeikxm ½²₂−×٣米", max_size=12),
    st.text(alphabet="15.,-+$ e^/()", max_size=6),
)
def test_matching_is_symmetric_and_every_answer_matches_itself(one: str, other: str) -> None:
    assert exact_match(one, [other]) == exact_match(other, [one])
    assert exact_match(one, [one]) == bool(one.strip())
    assert f1(one, [other]) == pytest.approx(f1(other, [one]))


LONG = 20_000


@pytest.mark.parametrize(
    "piece",
    ["1", "-", "$", "(", "1,000,", "1 000 ", "1_000_", "1-", "1.", "1/", "1 1/2", "10^", "9^9", "1e", "3x10^", "5 km/", "minus ",
    "decimal(",
     "x-", "a-", "-(", "A+", "~", "x^", "ab-1", "c#!", "<", "⁹", "5 thousand ", "{1}", "'", "sqrt(", "2 + "],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """A matter of steps, not of a clock: what is a square of the length would take minutes here, and the suite's time limit ends it."""
    text = piece * (LONG // len(piece))
    assert normalize(f"5{text}5_)")


def test_no_exponent_is_expanded() -> None:
    limit = sys.get_int_max_str_digits()
    for text in ("1e999999999", "9^999999999", "9" * (limit + 1), "1e" + "9" * (limit + 1), "10^99999999999 million"):
        assert exact_match(text, [text])
        assert len(normalize(text)) < len(text) + 50
    assert exact_match("10e999999998", ["1e999999999"])


def test_a_reward_key_that_would_not_act_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has no effect"):
        load_config(None, ["reward.match=ascii", "reward.numbers=text"])
