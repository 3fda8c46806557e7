"""TRL's side of `benchmarks/train.py`, in a process of its own: it makes an update for each line it reads."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EPISODES_A_GROUP = 4
NEW_TOKENS = 32
LR, KL = 1e-5, 0.001
ROWS_A_PASS = 64
"""Faster here than 16 or all of them."""


def score(text: str) -> float:
    """A reward that costs nothing, and differs: the share of vowels."""
    return sum(letter in "aeiou" for letter in text) / max(1, len(text))


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of one update of TRL's, and the tokens it sampled."""

    sampling_s: float
    update_s: float
    tokens: int


class Trl:
    """A GRPOTrainer in a process of its own, which waits while it is not asked."""

    def __init__(self, model: Path, prompts: list[str], *, updates: int) -> None:
        self._directory = tempfile.TemporaryDirectory()
        settings = Path(self._directory.name) / "settings.json"
        told = {"model": str(model), "prompts": prompts, "updates": updates}
        settings.write_text(json.dumps(told), encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def update(self) -> Seconds:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"sampling_s"'):
                return Seconds(**json.loads(line))
        raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()


def main(file: Path) -> None:
    settings = json.loads(file.read_text(encoding="utf-8"))
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    prompts = settings["prompts"]
    passes = max(1, len(prompts) * EPISODES_A_GROUP // ROWS_A_PASS)
    arguments = GRPOConfig(
        output_dir=str(file.parent), use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=LR, beta=KL,
        per_device_train_batch_size=len(prompts) * EPISODES_A_GROUP // passes, gradient_accumulation_steps=passes,
        steps_per_generation=passes, num_generations=EPISODES_A_GROUP, max_completion_length=NEW_TOKENS,
        max_steps=settings["updates"], report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    watch: dict[str, float] = {}

    class Stopwatch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            sys.stdin.readline()
            watch.update(begun=time.perf_counter(), sampling=0.0, tokens=0)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            whole = time.perf_counter() - watch["begun"]
            told = {"sampling_s": watch["sampling"], "update_s": whole - watch["sampling"], "tokens": watch["tokens"]}
            print(json.dumps(told), flush=True)

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        reward_funcs=lambda completions, **_: [score(text) for text in completions],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts * settings["updates"]}),
        callbacks=[Stopwatch()],
    )
    generate = trainer._generate_single_turn

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = generate(*args, **kwargs)
        watch["sampling"] += time.perf_counter() - started
        watch["tokens"] += sum(map(len, found[0]))
        return found

    trainer._generate_single_turn = timed
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
