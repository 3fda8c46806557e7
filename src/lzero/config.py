"""Every knob, once: its type, its default and its sentence.

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


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class RunConfig(Section):
    dir: str = Field(
        "", description="Run directory; empty: runs/<name>-<date>-<time>. An existing one is only touched by --resume."
    )
    name: str = Field("world", description="First part of the run directory's name.")
    seed: int = Field(0, ge=0, description="Everything random in the run follows from it.")
    deterministic: bool = Field(
        False,
        description="Identical episodes, metrics and weights for one seed on CPU, whatever the timing; slower (see README).",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="Where training shows its metrics beside metrics.jsonl (extra `tracking`)."
    )
    wandb: Literal["offline", "online"] = Field(
        "offline",
        description="Whether Weights & Biases stays on this machine, or sends what it is told (with WANDB_API_KEY).",
    )


class ModelConfig(Section):
    path: str = Field(
        NANO,
        description='"nano" (bundled), a Hugging Face model directory with its tokenizer, or, for `lzero sft`, "fresh": '
        "new random weights in the nano's shape, and a tokenizer of the world's words.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Type of the weights that are sampled from and differentiated; AdamW changes float32 copies of bfloat16 ones.",
    )
    device: str = Field("auto", description='"auto" (CUDA if there is one), or as torch names it: "cpu", "cuda:1".')


class TasksConfig(Section):
    train: str = Field("world", description='"world" (built in), or a .jsonl/.jsonl.gz/.parquet file of tasks.')
    eval: str = Field(
        "world", description="Where held-out tasks come from; as `train`. The world's splits never overlap."
    )
    hops: tuple[int, ...] = Field((1, 2, 3), description="Hop counts of the world's questions, in equal parts.")
    corpus: str = Field(
        "",
        description="What `search` looks in: a .jsonl/.jsonl.gz/.parquet file of passages (title, text), or a directory of such files and "
        "of documents (text, Markdown, HTML, PDF, Word, PowerPoint); empty: each task's own passages.",
    )
    search_results: Count = Field(1, description="Passages that one `search` returns.")
    snippet_chars: Count = Field(1000, description="Characters of a passage that `search` returns.")


class AgentConfig(Section):
    prompt: str = Field(
        "brief",
        description='System prompt: "brief" (none: the question alone), "full" (NB-Agent\'s, by the task\'s ability), or a Jinja file.',
    )
    template: Literal["model", "raw"] = Field(
        "model",
        description='How turns are marked: "model" (its chat template), or "raw" (plain headings and the end-of-text token; for '
        "templates that rewrite the history of a conversation).",
    )
    memory: Literal["none", "soft", "hard"] = Field(
        "none",
        description='When max_tokens are full: "none" (the episode ends), "soft" (the model sums up what is then dropped), "hard" (only '
        "system prompt, task, notepad and the last output stay).",
    )
    summary_tokens: Count = Field(512, description='Tokens that a summary may hold, with memory = "soft".')
    notepad: bool = Field(False, description="Whether sessions hold a `notepad`, whose content stays in view.")
    notepad_chars: Count = Field(4000, description="Characters of the notepad that the model is shown.")
    max_steps: Count = Field(6, description="Steps an episode may take.")
    max_tokens: Count = Field(384, description="Tokens that a step's prompt and reply may hold together.")
    response_tokens: Count = Field(32, description="Tokens a reply may hold.")
    output_chars: Count = Field(
        400, description="Characters of a cell's output that the model is shown; head and tail are kept."
    )
    cell_s: Positive = Field(10.0, description="Seconds a cell may run before it is interrupted.")
    past_thoughts: Literal["dropped", "field", "text"] = Field(
        "dropped",
        description='Earlier thoughts that an endpoint told apart from its replies: "dropped" (not sent again), "field" (sent in the field '
        'that they came in), "text" (sent as <think>…</think> before the reply). A model that samples here always sees its own.',
    )
    answer_style: Literal["", "direct", "short", "report"] = Field(
        "",
        description='What kind of answer the question is made to ask for: "direct" (an answer, nothing else), "short" (a word or a short '
        'phrase), "report" (a text with sources), or as it is.',
    )
    question_prefix: str = Field(
        "", description="Put before a question; exact match depends on it (an ask for a direct answer, say)."
    )
    question_suffix: str = Field("", description="Put after a question.")
    tools: tuple[str, ...] = Field(
        (),
        description='Tools beside `search`: names of our own ("web_search", "read_page", "inspect_file", "look"; see [tools]), or '
        'import paths "package.module:name" of objects (`protocols.Tool`, as `@tool` makes them).',
    )

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        fields = type(self).model_fields
        if self.memory != "soft" and self.summary_tokens != fields["summary_tokens"].default:
            raise ValueError(f'summary_tokens = {self.summary_tokens} acts with memory = "soft" only')
        if not self.notepad and self.notepad_chars != fields["notepad_chars"].default:
            raise ValueError(f"notepad_chars = {self.notepad_chars} acts with notepad = true only")
        return self


class ReplConfig(Section):
    # What runs.
    packages: tuple[str, ...] = Field(
        (), description="Packages of the kernel environment beside IPython, numpy and pandas, as pip takes them."
    )
    environment: str = Field(
        "",
        description="Directory of the kernel environment; empty: made once, inside the Python environment lzero runs in.",
    )
    python: str = Field(
        "", description="Interpreter the kernel environment is made from; empty: the one lzero runs in."
    )
    kernelspec: str = Field(
        "python3", description='Jupyter kernelspec of tier "unsandboxed", as `jupyter kernelspec list` names it.'
    )
    zygotes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Warm processes that REPLs are forked from, at most; 0: one per core. More are started as they are busy.",
    )
    forks_per_zygote: Count = Field(
        5_000, description="Forks after which a zygote is replaced: its REPLs all have one memory layout."
    )

    # What shuts it in.
    tier: Literal["namespaces", "unsandboxed"] = Field(
        "namespaces",
        description='What shuts a REPL in: "namespaces" (all of docs/sandbox.md), or, never chosen for you, "unsandboxed" (nothing: a '
        "plain Jupyter kernel with your rights). `lzero pool probe` tells what this machine allows.",
    )
    cgroups: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether each REPL is in a control group of its own, by which the kernel bounds all that it holds (memory and "
        'workspace together) and shares the processor out: "auto", where this machine lets us; "on", or not at all; "off".',
    )

    # What one REPL may use, and what may go in and out of it.
    memory_mb: int = Field(
        2048, ge=64, description="Memory that all processes of a REPL hold together; one that holds more is killed."
    )
    disk_mb: int = Field(256, ge=1, description="Size of a REPL's private workspace, and of the largest file in it.")
    files: int = Field(16_384, ge=64, description="Files and directories of the workspace.")
    processes: int = Field(64, ge=2, description="Processes and threads of a REPL together.")
    open_files: int = Field(256, ge=32, description="Descriptors that one process of a REPL may have open.")
    cpu_s: Positive = Field(
        3600.0, description="Processor seconds that all processes of a REPL use together; one that uses more is killed."
    )
    cores: float = Field(
        0.0, ge=0.0, description="Processor cores that a REPL may use; 0: no bound. Needs control groups."
    )
    lifetime_s: Positive = Field(
        7200.0, description="Seconds a REPL may exist; then it ends, which counts as our failure, never as the agent's."
    )
    output_kb: int = Field(
        512,
        ge=8,
        le=1000,
        description="What a cell may put out, in 1,000 characters (images in Base64): more is cut in its middle, or left out.",
    )
    file_mb: int = Field(16, ge=1, description="Largest file that goes into a REPL's workspace, or out of it.")
    transfers: int = Field(256, ge=0, description="Files that go in and out of one REPL's workspace, together.")
    tool_calls: Count = Field(10_000, description="Tool calls that leave one REPL; further ones are refused.")

    # Where it is.
    servers: tuple[str, ...] = Field(
        (),
        description='Pool servers that REPLs live on (`lzero pool serve` there), as "ws://host:port" or "wss://host:port"; empty: '
        "this machine. All other keys of the section but the next two are then set there.",
    )
    token_file: str = Field(
        "", description="File with the token of `servers`; empty: the environment variable LZERO_POOL_TOKEN holds it."
    )
    certificate_authority: str = Field(
        "",
        description="File with the certificate that signed those of wss:// servers; empty: the system's authorities.",
    )


class ToolsConfig(Section):
    search: Literal["auto", "serper", "exa", "searxng"] = Field(
        "auto",
        description="Who answers `web_search`; auto: a SearXNG if search_url is set, or else the service that there is a key for "
        "(SERPER_API_KEY, EXA_API_KEY).",
    )
    search_url: str = Field(
        "", description="Where that is, as http://localhost:8888; empty: the service's own address."
    )
    search_results: int = Field(5, ge=1, le=20, description="Results of a `web_search` that does not say how many.")
    snippet_chars: Count = Field(1000, description="Characters of a web result that the agent is shown.")
    reader: Literal["local", "jina"] = Field(
        "local", description="Who makes Markdown of a page for `read_page`: this machine (extra `web`), or r.jina.ai."
    )
    reader_url: str = Field("", description="A Jina reader of your own; empty: r.jina.ai.")
    page_tokens: Count = Field(100_000, description="Tokens of a page that the agent gets (of four characters each).")
    timeout_s: float = Field(15.0, gt=0.0, le=50.0, description="Seconds that one request of a web tool may take.")
    tries: Count = Field(3, description="How often a request is tried that fails by no fault of the agent.")
    calls_per_second: float = Field(
        0.0, ge=0.0, description="Calls of a web tool that all episodes together may start in a second; 0: no bound."
    )
    cache: str = Field(
        "",
        description="Directory that keeps the answers of web tools, for calls that come again; empty: none are kept.",
    )
    allow_hosts: tuple[str, ...] = Field(
        (),
        description='Hosts, as "wiki.intranet" or "127.0.0.1:8000", that `read_page` may read though they are not on the public internet.',
    )
    proxy: str = Field(
        "", description="HTTP proxy of the web tools, as http://host:port; empty: none, whatever the environment says."
    )
    file_chars: int = Field(
        20_000,
        ge=1,
        le=500_000,
        description="Characters of a file that one `inspect_file` returns; the next ones are asked for.",
    )
    vision_url: str = Field(
        "https://api.openai.com/v1", description="OpenAI-compatible endpoint of the model that answers `look`."
    )
    vision_model: str = Field("", description="That model's name, as the endpoint knows it.")
    vision_key: str = Field(
        "OPENAI_API_KEY", description="Variable that holds the endpoint's key; empty: it asks for none."
    )
    env_file: str = Field(
        "", description="File of keys, NAME=value a line; empty: .env, if there is one. The environment wins."
    )
    install_allow: tuple[str, ...] = Field(
        (),
        description='Packages that `install` may bring into a session, each with or without versions ("attrs>=23"); what they need must be '
        "among them, or in the kernel environment.",
    )

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        if self.reader_url and self.reader != "jina":
            raise ValueError('reader_url acts with reader = "jina" only')
        return self

    @pydantic.field_validator("search_url", "reader_url", "vision_url", "proxy")
    @classmethod
    def _no_secret_in_an_address(cls, url: str) -> str:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("an address holds no user name or password: it is recorded with the run")
        return url


class RolloutConfig(Section):
    tasks_per_update: Count = Field(64, description="Groups that one update trains on.")
    episodes_per_task: Count = Field(4, description="Episodes of a group.")
    concurrency: Count = Field(128, description="Episodes that run at once.")
    temperature: Positive = Field(1.0, description="Sampling temperature of training episodes.")
    filter: Literal["l0", "dapo", "none"] = Field(
        "l0",
        description='What becomes of groups whose core scores are all 0 or all 1: "l0" (dropped with probability drop_uniform; the last '
        'ones are taken back if refills do not fill the batch), "dapo" (dropped for good), "none" (trained on).',
    )
    drop_uniform: Fraction = Field(0.5, description='Probability of dropping such a group, with filter = "l0".')
    max_refills: Annotated[int, Field(ge=0)] = Field(
        4, description="Rounds of further tasks that may refill what was dropped."
    )
    curriculum: Literal["none", "pass_rate"] = Field(
        "none",
        description='Which tasks are taken: each in turn ("none"), or those that were solved about half the time more often ("pass_rate").',
    )
    stragglers: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="Once this share of a round's episodes is in, the rest are cut off and dropped; 0: all are waited for. Gives up "
        "determinism.",
    )
    episode_timeout_s: Positive = Field(
        240.0, description="Seconds after which an episode counts as our failure (kind lost), never as the agent's."
    )
    request_timeout_s: Positive = Field(120.0, description="Seconds the engine has to answer one request.")
    max_failure_rate: Fraction = Field(
        0.5, description="Share of failed episodes among the last 64 above which the run stops and says why."
    )


class RewardConfig(Section):
    qa: float = Field(0.8, ge=0.0, description="Weight of the answer's exact match, on the last step.")
    format: float = Field(0.1, ge=0.0, description="Weight of the format reward: 1/T for each well-formed step.")
    execution: float = Field(
        0.1, ge=0.0, description="Weight of the execution reward: 1/T for each cell that finished without error."
    )
    has_answer: Fraction = Field(
        0.0, description="Share of `qa` that is paid for any answer, right or wrong (0.1 in L0)."
    )
    f1: Fraction = Field(0.0, description="Share of `qa` that is token F1 rather than exact match.")
    match: Literal["unicode", "ascii"] = Field(
        "unicode",
        description='How answers are compared: "unicode" (in any script, but for case, accents, articles), or "ascii" '
        "(L0's rule: everything outside a–z0–9 is deleted).",
    )
    execution_rule: Literal["clean", "l0"] = Field(
        "clean", description='"clean": a cell without error earns it; "l0": 1 − errors/outputs, 0 for a silent cell.'
    )
    function: str = Field(
        "",
        description='A reward of your own, as "package.module:name": (task, episode) -> Reward. Empty: L0\'s, by the keys above.',
    )


class AlgoConfig(Section):
    # Credit: from rewards to advantages.
    estimator: Literal["reinforce++", "reinforce++_baseline", "grpo", "dr_grpo", "rloo", "gigpo"] = Field(
        "reinforce++",
        description="How a step's advantage follows from rewards; lzero.algo.advantages has a line on each.",
    )
    gamma: Fraction = Field(
        0.95, description="Discount of the return over steps (reinforce++, its baseline, and the steps of gigpo)."
    )
    step_weight: float = Field(
        1.0, ge=0.0, description="Weight of gigpo's advantage among steps from one state, beside that of the episode."
    )
    # Loss.
    loss: Literal["policy_gradient", "ppo"] = Field(
        "policy_gradient",
        description='"policy_gradient" (strictly on-policy: one optimiser step a batch), or "ppo" (the clipped ratio to the policy '
        "before the update).",
    )
    ratio: Literal["token", "step", "episode"] = Field(
        "token", description="What has one ratio of its own in ppo: a token, or a whole step or episode (GSPO)."
    )
    clip_low: Fraction = Field(0.2, description="ppo: ratios below 1 − this earn nothing more.")
    clip_high: Annotated[float, Field(ge=0.0)] = Field(
        0.25, description="ppo: ratios above 1 + this earn nothing more."
    )
    dual_clip: Annotated[float, Field(ge=0.0)] = Field(
        3.0, description="ppo: a bad action costs at most this many times its advantage; 0: any number of times."
    )
    average: Literal["token", "step", "episode", "constant"] = Field(
        "token",
        description='What the loss is a mean over, in the whole update: its action tokens, steps, or episodes; "constant" divides by '
        "episodes × agent.max_steps × agent.response_tokens (Dr. GRPO).",
    )
    kl_coef: float = Field(0.001, ge=0.0, description="Coefficient of the KL penalty to the initial policy; 0: none.")
    kl: Literal["k1", "k2", "k3"] = Field(
        "k3", description="Estimator of that KL: k1 (log-ratio), k2 (half its square), k3 (never negative, L0's)."
    )
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="Whether the penalty is part of the loss, or taken off the reward of each step."
    )
    entropy_coef: float = Field(0.0, ge=0.0, description="Coefficient of a bonus for entropy, in the loss.")
    importance_cap: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Truncated importance sampling between sampler and trainer: the largest weight a token may get for being likelier "
        "in the trainer; 0: no weights.",
    )
    shuffle_rewards: bool = Field(
        False, description="Control experiment: rewards change places among the episodes of a batch."
    )


class TrainConfig(Section):
    updates: Count = Field(12, description="Updates: a batch of episodes each.")
    minibatches: Count = Field(
        1,
        description="Parts that a batch is cut into by episodes; each makes an optimiser step. 1: strictly on-policy.",
    )
    epochs: Count = Field(1, description="Times that an update goes over its batch.")
    lr: Positive = Field(1e-3, description="Learning rate, the largest.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="How the learning rate falls after the warm-up: not at all, or to zero after the last update.",
    )
    warmup_updates: Annotated[int, Field(ge=0)] = Field(
        0, description="Updates over which the learning rate rises, before the first one with all of `lr`."
    )
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's decoupled weight decay.")
    grad_clip: Positive = Field(1.0, description="Largest gradient norm.")
    micro_batch_tokens: Count = Field(
        8192, description="Tokens (padding included) of one forward and backward pass; never changes the gradient."
    )
    packing: Literal["auto", "packed", "padded", "tree"] = Field(
        "auto",
        description='How sequences share a pass: in one row without padding ("packed"), a row each ("padded"), a row for those that begin '
        'alike, with what they share computed once ("tree"), or as is fastest on the device (CUDA: packed, CPU: tree).',
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep one activation a layer and compute the rest again in the backward pass: far less memory, slower.",
    )
    checkpoint_every: Count = Field(10, description="Updates between checkpoints; the last is always kept.")
    keep_checkpoints: Count = Field(2, description="Checkpoints that stay on disk, the newest ones.")
    keep_best: bool = Field(
        True,
        description="With eval.every: keep a checkpoint of the policy with the best held-out score, too.",
    )

    @pydantic.model_validator(mode="after")
    def _an_update_has_all_of_the_rate(self) -> Self:
        if self.warmup_updates >= self.updates:
            raise ValueError(f"warmup_updates = {self.warmup_updates} leaves none of updates = {self.updates}")
        return self


class EvalConfig(Section):
    num_tasks: Count = Field(300, description="Held-out tasks.")
    every: Annotated[int, Field(ge=0)] = Field(
        0, description="Updates between evaluations in training; 0: before and after only."
    )
    sampled_episodes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Episodes a task, sampled at rollout.temperature, for sampled EM and pass@k beside the greedy score; 0: none.",
    )
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="Sampled episodes draw from the likeliest tokens that have this probability together; 1: from all.",
    )


class SftConfig(Section):
    episodes: tuple[str, ...] = Field((), description="Run directories whose recorded episodes are learned from.")
    weights: tuple[float, ...] = Field((), description="Share of each of `episodes` in the mix; empty: by their sizes.")
    focus: str = Field(
        "",
        description="Regular expression: only action tokens that overlap a match of it bear loss; empty: all of them.",
    )
    tokens: Count = Field(1_000_000, description="Tokens to train on.")
    batch_size: Count = Field(32, description="Sequences of one optimiser step.")
    lr: Positive = Field(0.02, description="Learning rate of Muon on matrices (or of AdamW on everything).")
    embedding_lr: Positive = Field(0.01, description="Learning rate of AdamW on embeddings and norms, beside Muon.")
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
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    section, dot, key = path.partition(".")
    if not (equals and dot and section and key) or "." in key:
        raise ConfigError(f"{override!r} is not an override: write section.key=value, as in algo.kl_coef=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or path
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{section!r} is not a section of keys in the configuration file")
    table[key] = value


DISTORTING = re.compile(
    r"top_p|top_k|top_a|min_p|typical_p|epsilon_cutoff|eta_cutoff|\w*_penalty|logit_bias|no_repeat_ngram_size"
)
"""Keys, elsewhere, by which tokens are drawn from another distribution than the policy's."""


def _explain(detail: Any) -> str:
    location = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        section, _, key = location.partition(".")
        if section in ("rollout", "agent", "algo", "train") and DISTORTING.fullmatch(key):
            return (
                f"{location!r} is no key: training draws from the policy's whole distribution at rollout.temperature, for of any other "
                "the recorded log-probabilities would not be true, nor the gradient (eval.top_p is for sampled evaluation only)"
            )
        nearest = difflib.get_close_matches(location, [*keys(), *Config.model_fields], n=1, cutoff=0.0)
        return f"unknown key {location!r}; did you mean {nearest[0]!r}?"
    given = re.sub(r"://[^/@\s]*@", "://…@", repr(detail["input"]))  # an address may hold a password
    return f"{location} = {given}: {detail['msg']}"
