"""Keys of the agent."""

from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import Count, Positive, Section


class AgentConfig(Section):
    use: str = "nb"
    """Agent: "nb" (NB-Agent, with the keys below), "direct" (the model answers at once), "rag" (one search, then the model answers), or
    the import path "package.module:factory" of your own (see docs/environments.md)."""
    options: dict[str, Any] = Field({})
    """Options of `use`, as {retries = 2}; docs/evaluation.md lists those of "direct" and "rag"."""
    prompt: str = "brief"
    """System prompt: "brief" (none: the question alone), "full" (NB-Agent's, by the task's ability), or a Jinja file."""
    template: Literal["model", "raw"] = "model"
    """Format of turns: "model" (the model's chat template), or "raw" (plain headings and the end-of-text token; for chat templates
    that rewrite the history of a conversation)."""
    memory: Literal["none", "soft", "hard"] = "none"
    """What to do when the conversation reaches max_tokens: "none" (end the episode), "soft" (the model writes a summary that
    replaces the steps so far), "hard" (keep only system prompt, task, notepad and the last output)."""
    summary_tokens: Count = 512
    """Maximum tokens of a summary, with memory = "soft"."""
    notepad: bool = False
    """Give sessions a `notepad`, whose content the model always sees."""
    notepad_chars: Count = 4000
    """Maximum characters of the notepad that the model sees."""
    max_steps: Count = 6
    """Maximum steps of an episode."""
    max_tokens: Count = 384
    """Maximum tokens of a step's prompt and reply together. The default is the nano's; another model gets the number it was trained
    with, or its context, up to 16,384."""
    response_tokens: Count = 32
    """Maximum tokens of a reply. The default is the nano's; another model gets the number it was trained with, or a quarter of
    max_tokens, up to 4,096."""
    output_chars: Count = 400
    """Maximum characters of a cell's output that the model sees; longer output keeps its head and tail."""
    cell_s: Positive = 10.0
    """Seconds a cell may run before it is interrupted."""
    work_s: Positive = 120.0
    """Seconds that all cells of an episode and the tools that they call may take together; then the episode ends, out_of_time, and
    is scored. Waiting for the engine, a sandbox or a queue is not counted."""
    past_thoughts: Literal["dropped", "field", "text"] = "dropped"
    """Earlier thoughts that an endpoint returned apart from its replies: "dropped" (not sent again), "field" (sent in the field that
    held them), "text" (sent as <think>…</think> before the reply). A local model always sees its own thoughts."""
    answer_style: Literal["", "direct", "short", "report"] = ""
    """Kind of answer that the prompt asks for: "direct" (an answer without explanation), "short" (a word or a short phrase),
    "report" (a text with sources); empty: no request."""
    question_prefix: str = ""
    """Text put before a question, for example a request for a direct answer; exact match depends on it."""
    question_suffix: str = ""
    """Text put after a question."""
    tools: tuple[str, ...] = ()
    """Tools in addition to those of the environment: built-in names ("web_search", "read_page", "inspect_file", "look"; see
    [tools]), or import paths "package.module:name" of `protocols.Tool` objects (`@tool` makes them)."""

    @property
    def replies_a_step(self) -> int:
        """The most replies of the model in one step, a summary included."""
        return 2 if self.memory == "soft" else 1

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        fields = type(self).model_fields
        if self.memory != "soft" and self.summary_tokens != fields["summary_tokens"].default:
            raise ValueError(f'summary_tokens = {self.summary_tokens} has an effect with memory = "soft" only')
        if not self.notepad and self.notepad_chars != fields["notepad_chars"].default:
            raise ValueError(f"notepad_chars = {self.notepad_chars} has an effect with notepad = true only")
        return self
