"""Load and save model directories (Hugging Face format, local, safetensors only), tokenizers, and fresh models.

A directory is checked before anything is loaded; any problem is one ModelError with the reason and the fix. Nothing is ever downloaded.
Importing this module loads neither torch nor transformers.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.apart import run_apart
from lzero.config import NANO
from lzero.errors import ModelError
from lzero.model_files import check_model, check_tokenizer, first_line, read_by_library, read_json, weight_files

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

ASSETS = Path(__file__).parent / "assets"
BUILD_S, BUILD_BYTES = 60.0, 4 << 30
"""Seconds and bytes in which a model must be built without weights."""
WEIGHTS_PER_BYTE, SPARE_WEIGHTS = 4, 1 << 26
"""Weights that a byte of the files may hold, and values that a model may compute besides, such as a table of positions."""
PAD, TURN_START, TURN_END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Qwen3Sizes:
    """Sizes of a new Qwen3 model; the defaults are the nano model's (0.38M parameters with its tokenizer)."""

    hidden_size: int = 96
    num_layers: int = 3
    num_heads: int = 3
    num_kv_heads: int = 3
    head_dim: int = 32
    mlp_size: int = 256
    max_tokens: int = 4096
    tied_embeddings: bool = True
    init_std: float = 0.02
    rope_theta: float = 100.0
    """Small, because a head has few dimensions: looking up "the token before" needs high frequencies."""


def resolve(path: str) -> Path:
    """Return the checked directory of `path`: "nano" is the bundled model, everything else a local directory.

    Raises ModelError if it is missing, incomplete, truncated, or has no tokenizer or chat template.
    """
    directory = ASSETS / NANO if path == NANO else Path(path).expanduser()
    if not directory.is_dir():
        raise ModelError(_not_a_directory(path, directory))
    check_model(directory)
    return directory


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerFast":
    """Return the tokenizer of a model directory, with its chat template and an end-of-turn token. Raises ModelError."""
    directory = Path(path)
    if not directory.is_dir():
        raise ModelError(_not_a_directory(str(path), directory))
    check_tokenizer(directory)
    if (directory / "config.json").is_file():  # transformers looks there for the tokenizer's class
        check_buildable(directory, whole=False)
    from transformers import AutoTokenizer

    with read_by_library(directory, "the tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, clean_up_tokenization_spaces=False
        )
    if not tokenizer.is_fast:
        raise ModelError(f"{directory}: lzero needs a fast tokenizer (a tokenizer.json); this one is {type(tokenizer)}")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{directory}: the tokenizer has no eos_token; name one in tokenizer_config.json")
    return tokenizer


def load_model(path: str | Path, *, dtype: str, device: str) -> "PreTrainedModel":
    """Return the causal language model of a checked directory (see `resolve`), in evaluation mode.

    `dtype` is "float32" or "bfloat16", `device` as torch names them ("auto" picks one). Raises ModelError, also if a file lacks a weight of
    the architecture, which would then be random.
    """
    directory = resolve(str(path))
    target = select_device(device)
    check_buildable(directory)
    import torch
    from transformers import AutoModelForCausalLM

    with read_by_library(directory, "the model cannot be loaded"), no_progress_bars():
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
        raise ModelError(
            f"{directory}: {len(wrong)} weights are missing, or their shape differs from config.json ({wrong[0]}, …)"
        )
    return model.to(target).eval()


def parameter_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the parameters of a model directory. Raises ModelError."""
    return {name: tuple(parameter.shape) for name, parameter in empty_model(path).named_parameters()}


def empty_model(path: str | Path) -> "PreTrainedModel":
    """Return the model of a directory without weights: on the meta device, from its config.json alone. Raises ModelError."""
    directory = resolve(str(path))
    check_buildable(directory)
    with read_by_library(directory, "the model cannot be loaded"):
        return _built(directory)


def check_buildable(directory: Path, *, whole: bool = True) -> None:
    """Read config.json with transformers and, if `whole`, build the model without weights, in a fork.

    Raises ModelError if that fails, takes more than BUILD_S or BUILD_BYTES, or makes more weights than the files can hold. The classes of
    transformers count layers under hundreds of names, in nested objects too, and expand some numbers and lists as they read them.
    """
    settings = read_json(directory, "config.json", needed_for="a model directory")
    if "configuration_files" in settings:
        raise ModelError(
            f"{directory}: config.json names files that replace it (configuration_files): put one in its place"
        )
    with read_by_library(directory, "the model cannot be loaded"):
        _import_classes(str(settings.get("model_type")), whole=whole)
        outcome = run_apart(
            lambda: _num_weights(directory) if whole else _read_as_tokenizers_do(directory),
            seconds=BUILD_S,
            memory_bytes=BUILD_BYTES,
        )
    limits = {"TimeoutError": f"more than {BUILD_S:g} s", "MemoryError": f"more than {BUILD_BYTES:,} bytes of memory"}
    if takes := [limits[name] for name in outcome.raised if name in limits]:
        raise ModelError(f"{directory}: what its config.json describes takes {takes[0]} to build")
    if outcome.raised:
        raise ModelError(f"{directory}: the model cannot be loaded: {outcome.reason or outcome.raised[0]}")
    if whole:
        num_bytes = sum(file.stat().st_size for file in weight_files(directory))
        if int(outcome.text) > num_bytes * WEIGHTS_PER_BYTE + SPARE_WEIGHTS:
            raise ModelError(
                f"{directory}: config.json describes {int(outcome.text):,} weights, and the files of the weights have {num_bytes:,} bytes: "
                "they are not of one model"
            )


def _import_classes(model_type: str, *, whole: bool) -> None:
    """Import what reads and builds a model of this type, because imports in a fork would count as its time and memory."""
    from transformers import CONFIG_MAPPING

    with suppress(KeyError):  # an unknown type: reading config.json gives the reason
        kind = CONFIG_MAPPING[model_type]
        if whole:
            from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

            MODEL_FOR_CAUSAL_LM_MAPPING[kind]


def _num_weights(directory: Path) -> str:
    model = _built(directory)
    return str(sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers())))


def _read_as_tokenizers_do(directory: Path) -> str:
    """Read config.json with the class of its type, or else with that of all types, as AutoTokenizer does."""
    from transformers import PreTrainedConfig

    try:
        read_config(directory)
    except (ValueError, OSError):
        PreTrainedConfig.from_pretrained(directory, local_files_only=True)
    return ""


def read_config(directory: Path) -> "PretrainedConfig":
    """Return config.json as transformers reads it. Raises whatever transformers does."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _built(directory: Path) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    config = read_config(directory)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def new_model(sizes: Qwen3Sizes, tokenizer: "PreTrainedTokenizerFast", *, seed: int) -> "PreTrainedModel":
    """Return a fresh float32 Qwen3 model on the CPU for `tokenizer`; the same seed gives the same weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        intermediate_size=sizes.mlp_size,
        max_position_embeddings=sizes.max_tokens,
        tie_word_embeddings=sizes.tied_embeddings,
        initializer_range=sizes.init_std,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    directory: Path,
    *,
    weights: "Mapping[str, Tensor] | None" = None,
) -> None:
    """Write both in Hugging Face format, with these `weights` (names as in `model.state_dict()`) or the model's own.

    The directory appears completely or not at all; an existing one is replaced only when the new one is complete. Raises ModelError, for
    example on a full disk.
    """
    from safetensors import SafetensorError

    directory = Path(directory).absolute()
    temporary: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        new = temporary / "new"
        with no_progress_bars():
            model.save_pretrained(new, state_dict=_unshared(model, weights or model.state_dict()))
        # tokenizers reports a full disk as a plain Exception, so write the same bytes here first.
        (new / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(pretty=True), encoding="utf-8")
        tokenizer.save_pretrained(new)
        for file in files_below(new):
            file.chmod(0o644)  # safetensors writes for its owner only
            flush(file)  # before the rename that makes it visible
        if directory.exists():
            directory.rename(temporary / "old")
        new.rename(directory)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot save the model to {directory}: {first_line(error)}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def decode(ids: Sequence[int], tokenizer: "PreTrainedTokenizerFast") -> str:
    """Return the text of these ids, control tokens included."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _unshared(model: "PreTrainedModel", weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the weights with shared memory copied, except for weights that the model ties when it is loaded.

    safetensors writes no tensor twice, and transformers refuses shared weights that it does not know (layers that share a module).
    """
    tied = getattr(model, "all_tied_weights_keys", {})
    whole: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        storage = tensor.untyped_storage().data_ptr()
        whole[name] = tensor.detach().clone() if storage in seen and name not in tied else tensor
        if name not in tied:
            seen.add(storage)
    return whole


def build_tokenizer(words: Sequence[str] = ()) -> "PreTrainedTokenizerFast":
    """Return a lossless tokenizer of 3 specials, the 256 bytes, and `words` (pieces of text, one token each).

    Unigram over byte-level characters, with an equal cost for every piece, so that a text takes the fewest tokens; without words a token is
    a byte. `decode(encode(text, split_special_tokens=True)) == text` for every text. ChatML template, `<|im_end|>` ends a turn.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = _byte_alphabet()
    pieces = dict.fromkeys([*alphabet, *("".join(alphabet[byte] for byte in word.encode()) for word in words)])
    pieces.pop("", None)
    specials = [PAD, TURN_START, TURN_END]
    vocabulary = [*((special, -1e6) for special in specials), *((piece, -1.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def select_device(device: str = "auto") -> str:
    """Return the device; for "auto", "cuda" if there is one, else "cpu". Raises ModelError for a device that cannot be used."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used: {first_line(error)}") from error
    return device


def _byte_alphabet() -> list[str]:
    """Return the printable character for each byte in byte-level tokenizers (GPT-2's table)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _not_a_directory(path: str, directory: Path) -> str:
    if path == NANO:
        return f"the bundled model is missing ({directory}): install lzero again"
    if directory.exists():
        return f"model {path!r} is a file: give the directory that holds config.json and the weights"
    message = f"model {path!r}: no such directory"
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        message += (
            f". If it is a name on the Hugging Face Hub, download it first: hf download {path} --local-dir "
            f"{path.partition('/')[2]}, and give that directory; lzero downloads nothing by itself"
        )
    return message


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn transformers' progress bars off in the block, because lzero has its own display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def files_below(directory: Path) -> list[Path]:
    """Return every file of a model directory, subfolders included: a tokenizer with several chat templates has one."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def flush(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
