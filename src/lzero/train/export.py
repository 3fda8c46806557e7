"""Export a checkpoint as a plain model directory, without training state; transformers, vLLM and SGLang load it."""

import json
import shutil
import tempfile
from pathlib import Path

from lzero.errors import StoreError
from lzero.model_files import read_json
from lzero.store import RunDirectory
from lzero.store.writing import as_store_error, write_whole
from lzero.train.checkpoint import best_checkpoint, checkpoints, newest_checkpoint, only_to_resume, read_manifest
from lzero.train.lora import ADAPTER

BEST = "best"


def export(run_dir: Path, target: Path, *, name: str = "", adapter: bool = False) -> Path:
    """Copy the weights, configuration and tokenizer of a checkpoint to `target`, completely or not at all. Return the checkpoint.

    `name`: that of a checkpoint, "best" (by held-out score), or "" for the newest. `adapter`: copy the LoRA adapter alone, in PEFT's
    format. Raises StoreError if the run or checkpoint is missing or incomplete, `target` is not empty, or there is no adapter; ModelError
    if the checkpoint holds no model.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} exists and is not an empty directory: name another one")
    checkpoint = find(RunDirectory.open(run_dir), name)
    copied = _copied(checkpoint, adapter=adapter)
    target = target.absolute()
    with as_store_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            for file, copy in copied.items():
                (new / copy).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(checkpoint / file, new / copy)
            if not adapter:
                _speak_to_earlier_versions(new)
            new.rename(target)
    return checkpoint


def _copied(checkpoint: Path, *, adapter: bool) -> dict[str, str]:
    """Return which files of a checkpoint are exported, and their names there. Raises StoreError."""
    files, folder = read_manifest(checkpoint).files, f"{ADAPTER}/"
    if not adapter:
        return {file: file for file in files if not only_to_resume(file) and not file.startswith(folder)}
    found = {file: file.removeprefix(folder) for file in files if file.startswith(folder)}
    if not found:
        raise StoreError(f"{checkpoint} has no adapter, because lora.rank was 0: export the model, without --adapter")
    return found


def find(run: RunDirectory, name: str) -> Path:
    """Return the checkpoint of this name. Raises StoreError, which lists the existing ones."""
    if name == BEST:
        checkpoint = best_checkpoint(run.checkpoints)
    elif name:
        checkpoint = next((found for found in checkpoints(run.checkpoints) if found.name == name), None)
    else:
        checkpoint = newest_checkpoint(run.checkpoints)
    if checkpoint is None:
        names = ", ".join(path.name for path in checkpoints(run.checkpoints)) or "none"
        wanted = "checkpoint that was evaluated" if name == BEST else f"checkpoint {name}".strip()
        raise StoreError(f"{run.path} has no {wanted}; it has {names}")
    return checkpoint


def _speak_to_earlier_versions(directory: Path) -> None:
    """Add the names that transformers 5 has renamed, because servers with transformers 4 read the directory as well."""
    config = read_json(directory, "config.json", needed_for="a model directory")
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    _write_json(directory / "config.json", config)
    settings = read_json(directory, "tokenizer_config.json", needed_for="a tokenizer")
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    _write_json(directory / "tokenizer_config.json", settings)


def _write_json(file: Path, value: object) -> None:
    write_whole(file, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
