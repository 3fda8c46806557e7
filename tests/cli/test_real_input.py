"""Models and questions from outside go through the same commands: a Qwen3 model directory with a byte-level BPE tokenizer,
tasks in JSONL and Parquet, search over a file of passages, the full prompt.

The model's weights are random, so it writes noise; that a model which does act can search and be paid is shown by a script
in its place. Public questions and passages are looked for in `shared/data` beside the checkout.
"""

import gzip
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import last_line, succeed
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lzero.agent.outputs import render_output
from lzero.config import Config, load_config
from lzero.data.files import read_passages, read_tasks
from lzero.engine.kinds import OpenedEngine
from lzero.engine.scripted.engine import ScriptedEngine
from lzero.eval.evaluate import Evaluation, Evaluator
from lzero.models import CHAT_TEMPLATE
from lzero.rollout.compose import build, eval_tasks
from lzero.store import read_episodes, read_records
from lzero.types import Execution

pytestmark = pytest.mark.sandbox

RECIPE = Path(__file__).parents[2] / "recipes" / "qa-qwen3-0.6b.toml"
DATA = Path(__file__).parents[3] / "shared" / "data" / "multihop"
PASSAGES = [
    ("Hafen", "Hafen is a port on the northern shore of the Lake of Glass. Its mayor is Ilse Grün."),
    ("Ilse Grün", "Ilse Grün studied law in Montverd before she became mayor of Hafen in 2011."),
    ("Montverd", "Montverd, a town of 40,000, is known for its university and for its bridges."),
    ("北港", "北港是一个港口城市。市长是王小明。"),
    ("Lake of Glass", "The Lake of Glass covers 310 square kilometres; its deepest point lies near Hafen."),
]
TRAIN = [
    ("Who is the mayor of Hafen?", ["Ilse Grün", "Gruen"]),
    ("How many people live in Montverd?", ["40,000"]),
    ("On which lake does Hafen lie?", ["Lake of Glass"]),
    ("谁是北港的市长？", ["王小明"]),
]
HELD_OUT = [
    ("Where did the mayor of Hafen study?", ["Montverd"]),
    ("How large is the Lake of Glass?", ["310 square kilometres"]),
]
SMALL = [
    "model.device=cpu",
    "model.dtype=float32",
    "agent.max_steps=2",
    "agent.max_tokens=4096",
    "agent.response_tokens=12",
    "rollout.tasks_per_update=2",
    "rollout.episodes_per_task=2",
    "rollout.concurrency=4",
    "rollout.max_refills=1",
    "train.checkpoint_every=1",
    "eval.num_tasks=2",
    "eval.sampled_episodes=0",
]
PROMPT = resources.files("lzero.agent").joinpath("templates/system.jinja")


def save_random_model(directory: Path, texts: Iterable[str]) -> None:
    """Save a tiny Qwen3 with random weights and a tokenizer trained on `texts`, as any Hugging Face tool writes them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=specials[0], eos_token=specials[2], chat_template=CHAT_TEMPLATE
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a recipe and overrides that name the user's own model, tasks and passages."""
    directory = tmp_path_factory.mktemp("own")
    with gzip.open(directory / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"title": title, "text": text}) + "\n" for title, text in PASSAGES)
    rows = [{"question": question, "answers": answers} for question, answers in TRAIN]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    held_out = [{"question": question, "answers": answers, "hops": 1} for question, answers in HELD_OUT]
    pq.write_table(pa.Table.from_pylist(held_out), directory / "dev.parquet")
    save_random_model(directory / "model", [PROMPT.read_text(encoding="utf-8"), *(text for _, text in PASSAGES)])
    tasks = [f"tasks.{key}={directory / name}" for key, name in (("train", "train.jsonl"), ("eval", "dev.parquet"))]
    return [
        str(RECIPE),
        f"model.path={directory / 'model'}",
        f"environment.options.corpus={directory / 'corpus.jsonl.gz'}",
        *tasks,
        *SMALL,
    ]


def text_of(execution: Execution | None) -> str:
    """Return the output of a cell, as the model read it."""
    assert execution is not None
    return render_output(execution, max_chars=8000)


def test_a_model_and_tasks_of_ones_own_are_checked_trained_on_resumed_and_evaluated(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed("check", *own)
    run = tmp_path / "run"
    succeed("train", *own, f"run.dir={run}", "train.updates=1", "--json")
    report = last_line(capsys)
    assert report["updates"] == 1
    assert not any(report["failures"].values()), report
    trained = list(read_episodes(run, phase="train"))
    assert {len(episode.steps) for episode in trained} == {2}
    assert {episode.status for episode in trained} == {"out_of_steps"}
    assert (run / "learning-curve.png").is_file()

    succeed("train", "--resume", str(run), "train.updates=2", "--json")
    assert last_line(capsys)["updates"] == 2

    checkpoint = run / "checkpoints" / "update-000002"
    succeed("eval", *own, f"model.path={checkpoint}", f"run.dir={tmp_path / 'eval'}", "--json")
    assert last_line(capsys)["score"] == report["score_after"]
    questions = [record.task.question for record in read_records(tmp_path / "eval")]
    assert questions == [question for question, _ in HELD_OUT]


async def searched(config: Config, answers: dict[str, str]) -> Evaluation:
    """Run held-out tasks with a script that searches for the question, then submits the answer that belongs to it."""

    def policy(transcript: str, seed: int) -> str:
        question = next(question for question in answers if question in transcript)
        first = f"print(search({question!r}))"
        code = f"submit_final_answer({answers[question]!r})" if "</output>\n[" in transcript else first
        return f"<think>\nThe question names what to look for.\n</think>\n<code>\n{code}\n</code>"

    def make_engine(tokenizer: PreTrainedTokenizerFast | None) -> OpenedEngine:
        assert tokenizer is not None
        return OpenedEngine(engine=ScriptedEngine(policy, tokenizer), tokenizer=tokenizer, concurrency=8)

    async with build(config, make_engine=make_engine) as parts:
        return await Evaluator(runner=parts.runner, source=eval_tasks(config), config=config).greedy()


async def test_an_agent_that_acts_finds_ones_own_passages_and_is_paid(own: list[str]) -> None:
    config = load_config(RECIPE, [*own[1:], "agent.response_tokens=256"])
    found = await searched(config, {question: answers[0] for question, answers in HELD_OUT})
    assert found.score == 1.0
    for record in found.records:
        assert record.rewards[0] is not None
        assert sum(record.rewards[0].per_step) == pytest.approx(1.0)
    outputs = [text_of(record.episodes[0].steps[0].execution) for record in found.records]
    assert "Ilse Grün studied law in Montverd" in outputs[0]
    assert "310 square kilometres" in outputs[1]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no public questions in {DATA}")
async def test_public_questions_are_searched_for_in_their_passages(own: list[str]) -> None:
    files = {name: DATA / f"{name}.jsonl.gz" for name in ("train", "dev", "corpus")}
    changes = [
        f"tasks.train={files['train']}",
        f"tasks.eval={files['dev']}",
        f"environment.options.corpus={files['corpus']}",
    ]
    config = load_config(RECIPE, [*own[1:], *changes, "agent.response_tokens=512", "eval.num_tasks=5"])
    tasks = read_tasks(files["dev"]).tasks[:5]
    found = await searched(config, {task.question: task.answers[0] for task in tasks})
    assert found.score == 1.0
    assert found.num_failed == 0
    titles = {passage.title for passage in read_passages(files["corpus"])}
    for record in found.records:
        shown = text_of(record.episodes[0].steps[0].execution)
        assert any(title and f"{title}:" in shown for title in titles), shown


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no public questions in {DATA}")
def test_a_random_model_trains_on_public_questions(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [f"tasks.{key}={DATA / name}.jsonl.gz" for key, name in (("train", "train"), ("eval", "dev"))]
    corpus = f"environment.options.corpus={DATA / 'corpus.jsonl.gz'}"
    succeed("train", *own, *changes, corpus, f"run.dir={tmp_path / 'run'}", "train.updates=1", "--json")
    assert last_line(capsys)["updates"] == 1
