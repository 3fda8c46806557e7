"""Check the files of a model directory before a library reads them: complete, bounded, and all inside the directory.

A directory may come from a stranger. Links must lead to files below it, or to the store of Hugging Face's cache that a snapshot belongs to.
Importing this module loads neither torch nor transformers.
"""

import base64
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import msgspec

from lzero.errors import ModelError
from lzero.paths import is_within, read_bounded

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TEMPLATES = "additional_chat_templates"
MAX_JSON_BYTES = 64 << 20
"""Bytes of the largest JSON file, except tokenizer.json."""
MAX_TOKENIZER_BYTES = 256 << 20
"""Bytes of the largest file of a tokenizer: several times the largest vocabulary in use."""
MAX_TEMPLATE_BYTES = 1 << 20
BYTES_OF_A_VALUE = 25
"""The fewest bytes that a value takes on average in a JSON file of the largest size: `{},` takes 3, and 64 in memory."""
MAX_PARTS = 64
"""The most parts of a tokenizer that work on a text one after the other, such as its normalizers."""
MAX_GROWTH = 1_000
"""How many times as long these parts together may make a text: ten of them that write "aa" for "a" make it a thousand times as long."""
MAX_ADDED_CHARS = 100
"""The most characters that these parts together may write before a text."""
MAX_TOKEN_CHARS = 10_000
"""Characters of the longest token. Those in use have a few hundred."""
MAX_WORD_CHARS = 1_000
"""Longest `max_input_chars_per_word` of WordPiece, whose time grows with the cube of a word's length. Usual is 100."""
_PARTS = ("normalizers", "pretokenizers", "decoders")
_GROWTH = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "BertNormalizer": 12, "ByteLevel": 2}
"""Part → how many times as long it can make a text, by Unicode's tables."""
MAX_HEADER_BYTES = 32 << 20
"""Bytes of the largest header of a safetensors file: about 300,000 tensors."""
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int]


def check_model(directory: Path) -> None:
    """Check all files of a model. Raises ModelError with the reason and the fix."""
    _check_links(directory)
    if (directory / "adapter_config.json").exists():
        raise ModelError(
            f"{directory} is an adapter, whose base model lies elsewhere: merge it into its base model (merge_and_unload in peft), "
            "and give the directory of the result"
        )
    config = read_json(directory, "config.json", needed_for="a model directory in Hugging Face format")
    if kernel := next(_kernels(config), ""):
        raise ModelError(
            f"{directory}: config.json names {kernel!r:.100}, code from a hub, which transformers would fetch and run: remove the key"
        )
    if (directory / "generation_config.json").is_file():
        read_json(directory, "generation_config.json", needed_for="a model directory")
    num_tensors = sum(_check_safetensors(file) for file in weight_files(directory))
    for key in _LAYERS:
        if isinstance(layers := config.get(key), int) and layers > num_tensors:
            raise ModelError(
                f"{directory}: config.json says {key} = {layers}, and the weights are {num_tensors} tensors: they are not of one model"
            )
    check_tokenizer(directory)


def _kernels(config: object) -> Iterator[str]:
    """Yield the repositories of kernels that a configuration names, at any depth, as implementations of a layer."""
    parts = [config]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            for key, value in part.items():
                names = value.values() if isinstance(value, dict) else [value]
                if key.endswith("_implementation"):
                    yield from (name for name in names if isinstance(name, str) and "/" in name)
            parts += part.values()


def num_layers(directory: Path) -> int | None:
    """Return the number of layers that config.json names; None if it does not. Raises ModelError."""
    config = read_json(directory, "config.json", needed_for="a model directory in Hugging Face format")
    return next((config[key] for key in _LAYERS if isinstance(config.get(key), int)), None)


def check_tokenizer(directory: Path) -> None:
    """Check the tokenizer's files. Raises ModelError."""
    _check_links(directory)
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{directory} has no tokenizer ({' or '.join(TOKENIZER_FILES)}): save it beside the weights")
    for name in ("tokenizer.model", "merges.txt"):
        _check_size(directory / name, MAX_TOKENIZER_BYTES)
    for name in ("vocab.json", "added_tokens.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            read_json(directory, name, needed_for="a tokenizer", max_bytes=MAX_TOKENIZER_BYTES)
    for template in (directory / "chat_template.jinja", *(directory / TEMPLATES).glob("*")):
        _check_size(template, MAX_TEMPLATE_BYTES)
    if (directory / "tokenizer.json").is_file():
        parts = read_json(directory, "tokenizer.json", needed_for="a tokenizer", max_bytes=MAX_TOKENIZER_BYTES)
        if not isinstance(parts.get("model"), dict):
            raise ModelError(f"{directory / 'tokenizer.json'} is broken: it has no model")
        if problem := _growth_problem(parts):
            raise ModelError(f"{directory / 'tokenizer.json'}: {problem}. Take another tokenizer, or change that in it")
    settings = {}
    if (directory / "tokenizer_config.json").is_file():
        settings = read_json(directory, "tokenizer_config.json", needed_for="a tokenizer")
    if "fast_tokenizer_files" in settings:
        raise ModelError(
            f"{directory}: tokenizer_config.json names files that replace tokenizer.json (fast_tokenizer_files): put one in its place"
        )
    if not ((directory / "chat_template.jinja").is_file() or settings.get("chat_template")):
        raise ModelError(
            f"{directory}: the tokenizer has no chat template, which marks where a turn starts and ends. Base models often "
            "lack one: copy the chat_template.jinja of its instruct version, or ChatML, into the directory"
        )


def _growth_problem(tokenizer: Mapping[str, Any]) -> str:
    """Return why a short text could take memory or time without bound with this tokenizer.json; "" if it cannot.

    The library tokenizers recognises a part without a type by its keys, so this function looks at keys.
    """
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        parts = list(itertools.islice(_leaves(tokenizer.get(name)), MAX_PARTS + 1))
        if len(parts) > MAX_PARTS:
            return f"its {name} has more than {MAX_PARTS} parts"
        if (growth := math.prod(map(_growth, parts))) > MAX_GROWTH:
            return f"its {name} can make a text {growth:.3g} times as long"
        if (added := sum(len(str(part.get("prepend", ""))) for part in parts)) > MAX_ADDED_CHARS:
            return f"its {name} writes {added:,} characters before each text"
    model, added_tokens = tokenizer["model"], tokenizer.get("added_tokens")
    if (limit := model.get("max_input_chars_per_word")) and not (isinstance(limit, int) and limit <= MAX_WORD_CHARS):
        return f"its max_input_chars_per_word is {limit!r:.40}, more than {MAX_WORD_CHARS:,}"
    vocab = found if isinstance(found := model.get("vocab"), list | dict) else ()
    tokens = [entry[0] if isinstance(entry, list) and entry else entry for entry in vocab]
    if isinstance(added_tokens, list):
        tokens += [entry.get("content") for entry in added_tokens if isinstance(entry, dict)]
    longest = max((len(token) for token in tokens if isinstance(token, str)), default=0)
    if longest > MAX_TOKEN_CHARS:
        return f"its longest token has {longest:,} characters, more than {MAX_TOKEN_CHARS:,}"
    return ""


def _leaves(part: object) -> Iterator[dict[str, Any]]:
    """Yield the parts that a part of a tokenizer consists of, in their order."""
    if isinstance(part, list):
        for each in part:
            yield from _leaves(each)
    elif isinstance(part, dict) and not any(name in part for name in _PARTS):
        yield part
    elif isinstance(part, dict):
        for name in _PARTS:
            yield from _leaves(part.get(name))


def _growth(part: Mapping[str, Any]) -> float:
    """Return how many times as long a part can make a text."""
    if isinstance(table := part.get("precompiled_charsmap"), str):
        try:
            data = base64.b64decode(table)
        except ValueError:
            return 1.0  # the reader refuses it
        return max(1.0, *map(len, data[4 + int.from_bytes(data[:4], "little") :].split(b"\0")))
    if isinstance(content := part.get("content"), str) and (pattern := part.get("pattern")) is not None:
        found = pattern.get("String") if isinstance(pattern, dict) else pattern
        # A regular expression may match nothing, before every character.
        return max(1.0, len(content) / len(found)) if isinstance(found, str) and found else 1.0 + len(content)
    if "type" not in part:
        return float(max(_GROWTH.values()))
    return float(_GROWTH.get(str(part["type"]), 1))


def read_json(directory: Path, name: str, *, needed_for: str, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ModelError."""
    file = directory / name
    if not file.is_file():
        raise ModelError(f"{directory} has no {name}: it is not {needed_for}")
    try:
        data = read_bounded(file, max_bytes=max_bytes, max_values=max_bytes // BYTES_OF_A_VALUE)
        value = json.loads(data.decode())  # of bytes, it would read UTF-16 too, whose values were not counted
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{file} is broken or truncated: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} is broken: expected an object, found {type(value).__name__}")
    return value


@contextmanager
def read_by_library(where: object, what: str) -> Iterator[None]:
    """Convert any exception of a library that reads untrusted files, panics of its Rust code included, to ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: {what}: {first_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's; it derives from BaseException
            raise
        raise ModelError(f"{where}: {what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _check_links(directory: Path) -> None:
    """Raise ModelError for a link that leads out of the directory."""
    real = directory.resolve()
    allowed = [real, real.parents[1] / "blobs"] if real.parent.name == "snapshots" else [real]
    for file in (*directory.iterdir(), *(directory / TEMPLATES).glob("*")):
        if file.is_symlink() and not any(is_within(file, place) for place in allowed):
            raise ModelError(
                f"{file} is a link to a file outside of the model's directory, which is not followed: put the file itself there"
            )


def _check_size(file: Path, max_bytes: int) -> None:
    if file.is_file() and (size := file.stat().st_size) > max_bytes:
        raise ModelError(
            f"{file} has {size:,} bytes, and such a file has at most {max_bytes:,}: it is not what it is named"
        )


def weight_files(directory: Path) -> list[Path]:
    """Return the files of the weights. Raises ModelError if one is missing."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(directory, index.name, needed_for="a sharded model").get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{index} is broken: it has no weight_map of file names")
        names = sorted(set(shards.values()))
        for name in names:
            if PurePath(name).name != name:
                raise ModelError(f"{index} names {name!r}: the weights lie in the model's directory itself")
        files = [directory / name for name in names]
    else:
        files = [directory / "model.safetensors"]
    for file in files:
        if not file.is_file():
            pickled = sorted(found.name for found in directory.glob("*.bin"))
            reason = (
                f"; {pickled[0]} is a pickle, which lzero never reads: convert it to safetensors" if pickled else ""
            )
            raise ModelError(f"{directory} has no weights: {file.name} is missing{reason}")
    return files


def _check_safetensors(file: Path) -> int:
    """Compare the file's size with its header, which detects a truncated download or copy. Return the number of its tensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_size > min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(f"{file} is broken or truncated ({size} bytes): copy or download it again")
        try:
            header = msgspec.json.decode(stream.read(header_size), type=dict[str, msgspec.Raw])
            header.pop("__metadata__", None)
            ends = [msgspec.json.decode(entry, type=_Tensor).data_offsets[1] for entry in header.values()]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ModelError(f"{file} is not a safetensors file (its header is unreadable): {error}") from None
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise ModelError(f"{file} is truncated or broken: it has {size} bytes, and its header announces {expected}")
    return len(ends)
