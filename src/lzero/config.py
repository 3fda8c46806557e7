"""Every configuration key, once: its type, its default and its description.

The defaults are the demo: reinforcement learning of the bundled nano model on the built-in world. A run's configuration is
the defaults, changed by a TOML file, changed by dotted overrides (`algo.kl_coef=0.01`). Loads no torch.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from lzero.errors import ConfigError

NANO = "nano"
"""`model.path` of the model that comes with the package."""
ROW_FILES = (".jsonl", ".jsonl.gz", ".parquet")
"""Endings of files of tasks and passages."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class RunConfig(Section):
    dir: str = Field(
        "", description="Run directory; empty: runs/<name>-<date>-<time>. Only --resume changes an existing one."
    )
    name: str = Field("world", description="First part of the run directory's name.")
    seed: int = Field(0, ge=0, description="Seed of everything random in the run.")
    deterministic: bool = Field(
        False,
        description="Make episodes, metrics and weights on CPU depend on the seed only, not on timing; slower (see docs/training.md).",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="Services that show training metrics in addition to metrics.jsonl (extra `tracking`)."
    )
    wandb: Literal["offline", "online"] = Field(
        "offline",
        description='Keep Weights & Biases data on this machine ("offline"), or upload it with WANDB_API_KEY ("online").',
    )


class ModelConfig(Section):
    path: str = Field(
        NANO,
        description='"nano" (bundled), a Hugging Face model directory with its tokenizer, or, for `lzero sft`, "fresh": '
        "new random weights in the nano's shape, and a tokenizer of the world's words.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Type of the weights, in sampling and in training; AdamW updates float32 copies of bfloat16 weights.",
    )
    device: str = Field("auto", description='"auto" (CUDA if available), or a torch device: "cpu", "cuda:1".')


class TasksConfig(Section):
    train: str = Field("world", description='"world" (built in), or a .jsonl/.jsonl.gz/.parquet file of tasks.')
    eval: str = Field(
        "world", description="Source of held-out tasks, as for `train`. The world's splits never overlap."
    )
    columns: dict[str, str] = Field(
        {},
        description='Columns of a task file that hold the fields of a task: {question = "utterance", answers = "target"}; "a.b" is column '
        'b inside of a; "" reads the field from no column.',
    )
    hops: tuple[int, ...] = Field((1, 2, 3), description="Hop counts of the world's questions, in equal parts.")
    corpus: str = Field(
        "",
        description="Corpus of `search`: a .jsonl/.jsonl.gz/.parquet file of passages (title, text), or a directory of such files and "
        "of documents (text, Markdown, HTML, PDF, Word, PowerPoint); empty: each task's own passages.",
    )
    search_results: Count = Field(1, description="Passages that one `search` returns.")
    snippet_chars: Count = Field(1000, description="Characters of a passage that `search` returns.")

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        if self.columns and not (self.train.endswith(ROW_FILES) or self.eval.endswith(ROW_FILES)):
            raise ValueError("columns has an effect with task files only: neither tasks.train nor tasks.eval names one")
        return self


class AgentConfig(Section):
    prompt: str = Field(
        "brief",
        description='System prompt: "brief" (none: the question alone), "full" (NB-Agent\'s, by the task\'s ability), or a Jinja file.',
    )
    template: Literal["model", "raw"] = Field(
        "model",
        description='Format of turns: "model" (the model\'s chat template), or "raw" (plain headings and the end-of-text token; for '
        "chat templates that rewrite the history of a conversation).",
    )
    memory: Literal["none", "soft", "hard"] = Field(
        "none",
        description='What to do when the conversation reaches max_tokens: "none" (end the episode), "soft" (the model writes '
        'a summary that replaces the steps so far), "hard" (keep only system prompt, task, notepad and the last output).',
    )
    summary_tokens: Count = Field(512, description='Maximum tokens of a summary, with memory = "soft".')
    notepad: bool = Field(False, description="Give sessions a `notepad`, whose content the model always sees.")
    notepad_chars: Count = Field(4000, description="Maximum characters of the notepad that the model sees.")
    max_steps: Count = Field(6, description="Maximum steps of an episode.")
    max_tokens: Count = Field(
        384,
        description="Maximum tokens of a step's prompt and reply together. The default is the nano's; another model gets the number it was "
        "trained with, or its context, up to 16,384.",
    )
    response_tokens: Count = Field(
        32,
        description="Maximum tokens of a reply. The default is the nano's; another model gets the number it was trained with, or a quarter "
        "of max_tokens, up to 4,096.",
    )
    output_chars: Count = Field(
        400,
        description="Maximum characters of a cell's output that the model sees; longer output keeps its head and tail.",
    )
    cell_s: Positive = Field(10.0, description="Seconds a cell may run before it is interrupted.")
    past_thoughts: Literal["dropped", "field", "text"] = Field(
        "dropped",
        description='Earlier thoughts that an endpoint returned apart from its replies: "dropped" (not sent again), "field" (sent in '
        'the field that held them), "text" (sent as <think>…</think> before the reply). A local model always sees its own thoughts.',
    )
    answer_style: Literal["", "direct", "short", "report"] = Field(
        "",
        description='Kind of answer that the prompt asks for: "direct" (an answer without explanation), "short" (a word or a short '
        'phrase), "report" (a text with sources); empty: no request.',
    )
    question_prefix: str = Field(
        "",
        description="Text put before a question, for example a request for a direct answer; exact match depends on it.",
    )
    question_suffix: str = Field("", description="Text put after a question.")
    tools: tuple[str, ...] = Field(
        (),
        description='Tools in addition to `search`: built-in names ("web_search", "read_page", "inspect_file", "look"; see [tools]), or '
        'import paths "package.module:name" of `protocols.Tool` objects (`@tool` makes them).',
    )

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        fields = type(self).model_fields
        if self.memory != "soft" and self.summary_tokens != fields["summary_tokens"].default:
            raise ValueError(f'summary_tokens = {self.summary_tokens} has an effect with memory = "soft" only')
        if not self.notepad and self.notepad_chars != fields["notepad_chars"].default:
            raise ValueError(f"notepad_chars = {self.notepad_chars} has an effect with notepad = true only")
        return self


class ReplConfig(Section):
    # Software.
    packages: tuple[str, ...] = Field(
        (),
        description="Packages of the kernel environment in addition to IPython, numpy and pandas, as pip requirements.",
    )
    environment: str = Field(
        "",
        description="Directory of the kernel environment; empty: one inside lzero's own Python environment, made on first use.",
    )
    python: str = Field("", description="Interpreter that creates the kernel environment; empty: lzero's own.")
    kernelspec: str = Field(
        "python3", description='Jupyter kernelspec of tier "unsandboxed", as `jupyter kernelspec list` names it.'
    )
    zygotes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Maximum number of warm processes that REPLs are forked from; 0: one per core. They start as load requires.",
    )
    forks_per_zygote: Count = Field(
        5_000, description="Forks after which a zygote is replaced, because all its REPLs share one memory layout."
    )

    # Isolation.
    tier: Literal["namespaces", "unsandboxed"] = Field(
        "namespaces",
        description='Isolation of a REPL: "namespaces" (all of docs/sandbox.md), or "unsandboxed" (none: a plain Jupyter kernel with your '
        "rights; never chosen automatically). `lzero pool probe` checks what this machine supports.",
    )
    cgroups: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Put each REPL in its own control group, so that the kernel limits its memory and workspace together and shares the "
        'processor fairly: "auto" (if this machine allows it), "on" (required: an error otherwise), "off".',
    )

    # Limits of one REPL, and of the data that goes in and out of it.
    memory_mb: int = Field(
        2048, ge=64, description="Maximum memory of all processes of a REPL together; a REPL that exceeds it is killed."
    )
    disk_mb: int = Field(256, ge=1, description="Size of a REPL's private workspace, and of the largest file in it.")
    files: int = Field(16_384, ge=64, description="Maximum number of files and directories in the workspace.")
    processes: int = Field(64, ge=2, description="Maximum number of processes and threads of a REPL together.")
    open_files: int = Field(256, ge=32, description="Maximum number of open descriptors of one process of a REPL.")
    cpu_s: Positive = Field(
        3600.0,
        description="Maximum processor seconds of all processes of a REPL together; a REPL that exceeds them is killed.",
    )
    cores: float = Field(
        0.0, ge=0.0, description="Maximum processor cores that a REPL uses; 0: no limit. Needs control groups."
    )
    lifetime_s: Positive = Field(
        7200.0,
        description="Seconds after which a REPL is ended; this counts as a failure of lzero, never as the agent's.",
    )
    output_kb: int = Field(
        2000,
        ge=32,
        le=4000,
        description="Maximum output of a cell, in 1,000 characters (images in Base64); longer text is cut in its middle, larger values "
        "are left out.",
    )
    file_mb: int = Field(16, ge=1, description="Largest file that is copied into or out of a REPL's workspace.")
    transfers: int = Field(
        256, ge=0, description="Maximum number of files copied into and out of one REPL's workspace."
    )
    tool_calls: Count = Field(10_000, description="Maximum tool calls of one REPL; further calls are refused.")

    # Location.
    servers: tuple[str, ...] = Field(
        (),
        description='Pool servers that run the REPLs (`lzero pool serve` there), as "ws://host:port" or "wss://host:port"; empty: this '
        "machine. Set the other keys of this section, except the next two, on the servers.",
    )
    token_file: str = Field(
        "",
        description="File with the token of `servers`; empty: take it from the environment variable LZERO_POOL_TOKEN.",
    )
    certificate_authority: str = Field(
        "",
        description="Certificate (PEM) of the authority that signed the certificates of wss:// servers; empty: the system's authorities.",
    )


class ToolsConfig(Section):
    search: Literal["auto", "serper", "exa", "searxng"] = Field(
        "auto",
        description="Service behind `web_search`; auto: SearXNG if search_url is set, else the service whose key is set "
        "(SERPER_API_KEY, EXA_API_KEY).",
    )
    search_url: str = Field(
        "", description="Address of that service, as http://localhost:8888; empty: its public address."
    )
    search_results: int = Field(5, ge=1, le=20, description="Results of a `web_search` that names no number.")
    snippet_chars: Count = Field(1000, description="Maximum characters of a web result that the agent sees.")
    reader: Literal["local", "jina"] = Field(
        "local", description="Converter of pages to Markdown for `read_page`: this machine (extra `web`), or r.jina.ai."
    )
    reader_url: str = Field("", description="Address of your own Jina reader; empty: r.jina.ai.")
    page_tokens: Count = Field(
        100_000, description="Maximum tokens of a page that the agent sees (of four characters each)."
    )
    timeout_s: float = Field(15.0, gt=0.0, le=50.0, description="Timeout of one request of a web tool, in seconds.")
    tries: Count = Field(3, description="Attempts of a request that fails through no fault of the agent.")
    calls_per_second: float = Field(
        0.0, ge=0.0, description="Calls per second of a web tool, over all episodes; 0: no limit."
    )
    cache: str = Field(
        "",
        description="Directory that caches results of web tools; empty: no cache.",
    )
    allow_hosts: tuple[str, ...] = Field(
        (),
        description='Hosts outside the public internet that `read_page` may read, as "wiki.intranet" or "127.0.0.1:8000".',
    )
    proxy: str = Field(
        "",
        description="HTTP proxy of the web tools, as http://host:port; empty: none, even if the environment names one.",
    )
    file_chars: int = Field(
        20_000,
        ge=1,
        le=500_000,
        description="Characters that one call of `inspect_file` returns; the agent requests the following ones by `start`.",
    )
    vision_url: str = Field(
        "https://api.openai.com/v1", description="OpenAI-compatible endpoint of the vision model behind `look`."
    )
    vision_model: str = Field("", description="Name of that model at the endpoint.")
    vision_key: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the endpoint's key; empty: the endpoint needs none.",
    )
    env_file: str = Field(
        "",
        description="File of keys, one NAME=value per line; empty: .env, if it exists. The environment takes precedence.",
    )
    install_allow: tuple[str, ...] = Field(
        (),
        description='Packages that `install` may add to a session, each with or without versions ("attrs>=23"). Their dependencies must '
        "be in this list too, or in the kernel environment.",
    )

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        if self.reader_url and self.reader != "jina":
            raise ValueError('reader_url has an effect with reader = "jina" only')
        return self

    @pydantic.field_validator("search_url", "reader_url", "vision_url", "proxy")
    @classmethod
    def _no_secret_in_an_address(cls, url: str) -> str:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("the address contains a user name or password, and the run would record it: remove them")
        return url


class RolloutConfig(Section):
    tasks_per_update: Count = Field(64, description="Groups per update.")
    episodes_per_task: Count = Field(4, description="Episodes per group.")
    concurrency: Count = Field(128, description="Maximum number of concurrent episodes.")
    temperature: Positive = Field(1.0, description="Sampling temperature of training episodes.")
    filter: Literal["l0", "dapo", "none"] = Field(
        "l0",
        description='Treatment of groups whose core scores are all 0 or all 1: "l0" (dropped with probability drop_uniform; the last drops '
        'are taken back if refills do not fill the batch), "dapo" (dropped for good), "none" (trained on).',
    )
    drop_uniform: Fraction = Field(0.5, description='Probability of dropping such a group, with filter = "l0".')
    max_refills: Annotated[int, Field(ge=0)] = Field(
        4, description="Maximum rounds of further tasks that replace dropped groups."
    )
    curriculum: Literal["none", "pass_rate"] = Field(
        "none",
        description='Order of tasks: each in turn ("none"), or tasks that are solved about half the time more often ("pass_rate").',
    )
    stragglers: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="Once this share of a round's episodes is done, cut off and drop the rest; 0: wait for all. The run is then not "
        "deterministic.",
    )
    episode_timeout_s: Positive = Field(
        240.0,
        description="Seconds after which an episode counts as a failure of lzero (kind lost), never as the agent's.",
    )
    request_timeout_s: Positive = Field(120.0, description="Timeout of one request to the engine, in seconds.")
    max_failure_rate: Fraction = Field(
        0.5, description="Share of failed episodes among the last 64 above which the run stops with an error."
    )


class RewardConfig(Section):
    qa: float = Field(0.8, ge=0.0, description="Weight of the answer's exact match, on the last step.")
    format: float = Field(0.1, ge=0.0, description="Weight of the format reward: 1/T for each well-formed step.")
    execution: float = Field(
        0.1, ge=0.0, description="Weight of the execution reward: 1/T for each cell that ran without error."
    )
    has_answer: Fraction = Field(0.0, description="Share of `qa` earned by any answer, right or wrong (0.1 in L0).")
    f1: Fraction = Field(0.0, description="Share of `qa` that token F1 earns instead of exact match.")
    match: Literal["unicode", "ascii"] = Field(
        "unicode",
        description='Comparison of answers: "unicode" (any script; ignores case, accents and articles), or "ascii" '
        "(L0's rule: deletes everything outside a–z0–9).",
    )
    execution_rule: Literal["clean", "l0"] = Field(
        "clean",
        description='"clean": each cell without error earns the execution reward; "l0": 1 − errors/outputs, 0 for a silent cell.',
    )
    timeout_s: Positive = Field(
        60.0, description="Seconds that scoring one episode may take; a later reward counts as a failure (kind reward)."
    )
    function: str = Field(
        "",
        description='Import path "package.module:name" of your own reward, (task, episode) -> Reward. Empty: L0\'s reward, with the keys '
        "above.",
    )


class AlgoConfig(Section):
    # Credit: from rewards to advantages.
    estimator: Literal["reinforce++", "reinforce++_baseline", "grpo", "dr_grpo", "rloo", "gigpo"] = Field(
        "reinforce++",
        description="Estimator of advantages from rewards; lzero.algo.advantages describes each.",
    )
    gamma: Fraction = Field(
        0.95, description="Discount of the return per step (reinforce++, reinforce++_baseline, and the steps of gigpo)."
    )
    step_weight: float = Field(
        1.0, ge=0.0, description="Weight of gigpo's step advantage, added to its episode advantage."
    )
    # Loss.
    loss: Literal["policy_gradient", "ppo"] = Field(
        "policy_gradient",
        description='"policy_gradient" (strictly on-policy: one optimiser step per batch), or "ppo" (the clipped ratio to the policy '
        "before the update).",
    )
    ratio: Literal["token", "step", "episode"] = Field(
        "token", description="Unit of one ratio in ppo: a token, a step, or an episode (GSPO)."
    )
    clip_low: Fraction = Field(
        0.2, description="ppo: no gradient where the advantage is negative and the ratio is below 1 − clip_low."
    )
    clip_high: Annotated[float, Field(ge=0.0)] = Field(
        0.25, description="ppo: no gradient where the advantage is positive and the ratio is above 1 + clip_high."
    )
    dual_clip: Annotated[float, Field(ge=0.0)] = Field(
        3.0, description="ppo: limit the loss of a bad action to this multiple of its advantage; 0: no limit."
    )
    average: Literal["token", "step", "episode", "constant"] = Field(
        "token",
        description='Denominator of the loss, over the whole update: its action tokens, steps, or episodes; "constant" divides by '
        "episodes × agent.max_steps × agent.response_tokens (Dr. GRPO).",
    )
    kl_coef: float = Field(0.001, ge=0.0, description="Coefficient of the KL penalty to the initial policy; 0: none.")
    kl: Literal["k1", "k2", "k3"] = Field(
        "k3", description="Estimator of that KL: k1 (log-ratio), k2 (half its square), k3 (never negative, L0's)."
    )
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="Add the KL penalty to the loss, or subtract it from the reward of each step."
    )
    entropy_coef: float = Field(0.0, ge=0.0, description="Coefficient of the entropy bonus in the loss.")
    importance_cap: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Truncated importance sampling between sampler and trainer: the largest weight of a token that is likelier in the "
        "trainer; 0: no weights.",
    )
    shuffle_rewards: bool = Field(
        False, description="Control experiment: permute rewards among the episodes of a batch (see docs/training.md)."
    )


class TrainConfig(Section):
    updates: Count = Field(12, description="Number of updates; each trains on one batch of episodes.")
    minibatches: Count = Field(
        1,
        description="Parts of a batch, split by episodes, with one optimiser step each. 1: strictly on-policy.",
    )
    epochs: Count = Field(1, description="Passes of an update over its batch.")
    lr: Positive = Field(1e-3, description="Peak learning rate.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="Decay of the learning rate after the warm-up: none, or to zero after the last update.",
    )
    warmup_updates: Annotated[int, Field(ge=0)] = Field(
        0, description="Updates over which the learning rate rises, before the first one at `lr`."
    )
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's decoupled weight decay.")
    grad_clip: Positive = Field(1.0, description="Maximum gradient norm; larger gradients are scaled down.")
    micro_batch_tokens: Count = Field(
        8192, description="Tokens (padding included) of one forward and backward pass; does not change the gradient."
    )
    packing: Literal["auto", "packed", "padded", "tree"] = Field(
        "auto",
        description='Layout of sequences in a pass: one row without padding ("packed"), one row per sequence ("padded"), one row per '
        'common prefix, computed once ("tree"), or the fastest on the device ("auto"; CUDA: packed, CPU: tree).',
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep one activation per layer and recompute the rest in the backward pass: far less memory, slower.",
    )
    checkpoint_every: Count = Field(10, description="Updates between checkpoints; the last policy is always saved.")
    keep_checkpoints: Count = Field(2, description="Number of newest checkpoints that stay on disk.")
    keep_best: bool = Field(
        True,
        description="With eval.every: also keep a checkpoint of the policy with the best held-out score.",
    )

    @pydantic.model_validator(mode="after")
    def _an_update_has_all_of_the_rate(self) -> Self:
        if self.warmup_updates >= self.updates:
            raise ValueError(f"warmup_updates = {self.warmup_updates} must be smaller than updates = {self.updates}")
        return self


class EvalConfig(Section):
    num_tasks: Count = Field(300, description="Number of held-out tasks.")
    every: Annotated[int, Field(ge=0)] = Field(
        0, description="Updates between evaluations in training; 0: only before and after."
    )
    sampled_episodes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Episodes per task sampled at rollout.temperature, for sampled exact match and pass@k in addition to the greedy "
        "score; 0: none.",
    )
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="Sample from the likeliest tokens whose total probability is this (sampled episodes only); 1: from all.",
    )


class SftConfig(Section):
    episodes: tuple[str, ...] = Field((), description="Run directories whose recorded episodes are the training data.")
    weights: tuple[float, ...] = Field(
        (), description="Share of each of `episodes` in the mix; empty: in proportion to their sizes."
    )
    focus: str = Field(
        "",
        description="Regular expression: only action tokens that overlap a match have loss; empty: all action tokens.",
    )
    tokens: Count = Field(1_000_000, description="Tokens to train on.")
    batch_size: Count = Field(32, description="Sequences per optimiser step.")
    lr: Positive = Field(0.02, description="Learning rate of Muon on matrices (or of AdamW on everything).")
    embedding_lr: Positive = Field(
        0.01, description="Learning rate of AdamW on embeddings and norms, with Muon on the rest."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "adamw", description="Muon on matrices with AdamW on the rest, or AdamW alone."
    )
    warmup: Fraction = Field(0.02, description="Share of the steps over which the learning rate rises.")
    decay: Fraction = Field(0.2, description="Share of the steps, at the end, over which it falls to zero.")


class Config(Section):
    """The whole configuration of a run."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    tasks: TasksConfig = TasksConfig()
    agent: AgentConfig = AgentConfig()
    tools: ToolsConfig = ToolsConfig()
    repl: ReplConfig = ReplConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    algo: AlgoConfig = AlgoConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    sft: SftConfig = SftConfig()


def load_config(file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The defaults, changed by `file`, changed by `overrides` ("section.key=value"; the value is TOML, or a bare string).

    Raises ConfigError, which suggests the nearest key for an unknown one.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_toml(file)
    for override in overrides:
        _apply(values, override)
    return make_config(values)


def make_config(values: Mapping[str, Any]) -> Config:
    """The defaults, changed by `values`: `make_config({"agent": {"max_steps": 12}})`. Raises ConfigError as `load_config` does."""
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(detail) for detail in error.errors())) from None


def keys() -> list[str]:
    """Every "section.key"."""
    return [f"{name}.{key}" for name, section in _sections() for key in section.model_fields]


def _sections() -> Iterable[tuple[str, type[Section]]]:
    for name, field in Config.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        yield name, field.annotation


def _read_toml(file: Path) -> dict[str, Any]:
    if not file.exists() and file.parent.name in ("", "recipes") and (bundled := _recipes() / file.name).exists():
        file = bundled  # "recipes/world.toml" works outside of a checkout, too
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


def _recipes() -> Path:
    """Return the directory of the bundled recipes: in the installed package, or in the checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    section, dot, key = path.partition(".")
    if not (equals and dot and section and key) or "." in key:
        raise ConfigError(f"{override!r} is not of the form section.key=value, as in algo.kl_coef=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or path
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(
            f"{section!r} is a key in the configuration file, not a section: write [{section}] above its keys"
        )
    table[key] = value


DISTORTING = re.compile(
    r"top_p|top_k|top_a|min_p|typical_p|epsilon_cutoff|eta_cutoff|\w*_penalty|logit_bias|no_repeat_ngram_size"
)
"""Sampling keys of other programs that change the distribution; training has none of them."""


def _explain(detail: Any) -> str:
    location = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        section, _, key = location.partition(".")
        if section in ("rollout", "agent", "algo", "train") and DISTORTING.fullmatch(key):
            return (
                f"unknown key {location!r}: training samples from the policy's whole distribution at rollout.temperature. Any other "
                "distribution would make the recorded log-probabilities and the gradient wrong (eval.top_p is for sampled evaluation only)"
            )
        nearest = difflib.get_close_matches(location, [*keys(), *Config.model_fields], n=1, cutoff=0.0)
        return f"unknown key {location!r}; did you mean {nearest[0]!r}?"
    given = re.sub(r"://[^/@\s]*@", "://…@", repr(detail["input"]))  # an address may hold a password
    return f"{location} = {given}: {detail['msg']}"
