"""Keys of the agent and its tools."""

from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import Count, Positive, Section


class AgentConfig(Section):
    use: str = Field(
        "nb",
        description='Agent: "nb" (NB-Agent, with the keys below), or the import path "package.module:factory" of your own '
        "(see docs/environments.md).",
    )
    options: dict[str, Any] = Field({}, description="Options of an agent of your own, as {retries = 2}.")
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
    work_s: Positive = Field(
        120.0,
        description="Seconds that all cells of an episode and the tools that they call may take together; then the episode ends, "
        "out_of_time, and is scored. Waiting for the engine, a sandbox or a queue is not counted.",
    )
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
        description="Tools in addition to those of the environment: built-in names "
        '("web_search", "read_page", "inspect_file", "look"; see [tools]), or import paths "package.module:name" of `protocols.Tool` '
        "objects (`@tool` makes them).",
    )

    @property
    def replies_a_step(self) -> int:
        """The most replies of the model that one step takes: a summary is one, too."""
        return 2 if self.memory == "soft" else 1

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        fields = type(self).model_fields
        if self.memory != "soft" and self.summary_tokens != fields["summary_tokens"].default:
            raise ValueError(f'summary_tokens = {self.summary_tokens} has an effect with memory = "soft" only')
        if not self.notepad and self.notepad_chars != fields["notepad_chars"].default:
            raise ValueError(f"notepad_chars = {self.notepad_chars} has an effect with notepad = true only")
        return self


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
