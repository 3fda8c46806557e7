"""TOML is parsed in a time linear in its length, and only keys of many parts are refused for it."""

import time
import tomllib
from contextlib import suppress

import pytest

from lzero.bounded_toml import MAX_PARTS, parse_toml

WORDS = ".".join(["w"] * (MAX_PARTS + 1))


@pytest.mark.parametrize(
    "text",
    [
        f"{WORDS} = 1",
        f"a = 1\n[{WORDS}]",
        WORDS.replace(".", " . ") + " = 1",
        WORDS.replace("w", '"\\"x#"') + " = 1",
        WORDS.replace("w", "'x'") + " = 1",
        f'a = {{b = """x""""", {WORDS} = 1}}',
        f"a = {{b = '''x'''', {WORDS} = 1}}",
        f'a = "\\\\"\n{WORDS} = 1',
        f'a = """\\"""""\n{WORDS} = 1',
        f"a = '\\'\n{WORDS} = 1",
        f'a = "#"\n{WORDS} = 1 # "',
    ],
)
def test_a_key_of_too_many_parts_is_refused_wherever_it_stands(text: str) -> None:
    tomllib.loads(text)
    with pytest.raises(ValueError, match="has more than 32 parts"):
        parse_toml(text)


@pytest.mark.parametrize(
    "text",
    [
        f'a = "{WORDS}"',
        f"a = '{WORDS}'",
        f'a = """\nsaid "{WORDS}" or ""{WORDS}"""',
        f"a = '''\nit's {WORDS}'''",
        f"# see {WORDS}\na = 1",
        f'a = "\\"{WORDS}"',
        f'{WORDS.removesuffix(".w")} = "{WORDS}"',
    ],
)
def test_dotted_text_in_strings_and_comments_is_no_key(text: str) -> None:
    assert parse_toml(text) == tomllib.loads(text)


@pytest.mark.parametrize("text", ['x = "%s"', "x = '%s", 'x = """%s', "%s", "# %s"])
@pytest.mark.parametrize("part", ['\\"', '"', "'", '\\"a.', '""""', "a .", "a  ", "."])
def test_no_text_takes_more_than_linear_time(text: str, part: str) -> None:
    begun = time.thread_time()
    with suppress(ValueError):
        parse_toml(text % (part * 50_000))
    assert time.thread_time() - begun < 5.0
