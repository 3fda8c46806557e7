"""One class to TRL's contract of `environment_factory` runs under TRL's trainer and as lzero's environment "trl"."""

from pathlib import Path
from typing import Any

import pytest
from builders import save_tiny

from lzero.config import EnvironmentConfig
from lzero.data.world import vocabulary
from lzero.environments import open_environment
from lzero.models import build_tokenizer
from lzero.types import Task

pytestmark = [
    pytest.mark.reference,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # another project's, of its libraries
]


class Game:
    """Tell the number."""

    def reset(self, number: str, **row: Any) -> str:
        self.number, self.told = number, 0
        return f" It has {len(number)} digits."

    def tell(self, number: int) -> str:
        """Tell a number.

        Args:
            number: the number
        """
        self.told = number
        return "heard"

    def get_reward(self) -> float:
        return float(str(self.told) == self.number)


def trained_by_trl(directory: Path) -> Any:
    """Return TRL's trainer after one step with the class."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: make test-reference")
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    save_tiny(directory / "tiny", build_tokenizer(vocabulary()))
    words = transformers.AutoTokenizer.from_pretrained(str(directory / "tiny"))
    words.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text("utf-8")
    settings = {"max_steps": 1, "max_completion_length": 8, "num_generations": 2, "per_device_train_batch_size": 2}
    arguments = trl.GRPOConfig(
        output_dir=str(directory), report_to="none", use_cpu=True, bf16=False, save_strategy="no", **settings
    )
    row = {"prompt": [{"role": "user", "content": "Starting from"}], "number": "42"}
    trainer = trl.GRPOTrainer(
        model=str(directory / "tiny"),
        processing_class=words,
        args=arguments,
        train_dataset=datasets.Dataset.from_list([row] * 2),
        environment_factory=Game,
    )
    trainer.train()
    return trainer


async def test_a_class_for_trl_runs_unchanged_in_both(tmp_path: Path) -> None:
    trainer = trained_by_trl(tmp_path)
    theirs = trainer.environments[0]
    environment = open_environment(EnvironmentConfig(use="trl", options={"factory": f"{__name__}:Game"}))
    task = Task(id="t", question="Starting from", answers=(), metadata={"number": "42"})
    async with environment.scene(task, seed=0) as ours:
        assert [each.name for each in ours.tools] == [each.__name__ for each in trainer.tools] == ["tell"]
        assert trainer.reward_func_names == ["Game"]
        context: Any = None
        assert await ours.tools[0].call({"number": 42}, context) == theirs.tell(42) == "heard"
        assert await ours.outcome() == {"reward": theirs.get_reward()} == {"reward": 1.0}
