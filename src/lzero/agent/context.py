"""The context watcher: decides what the model sees next, within its limit.

    none   the conversation grows; when it is full, the episode ends
    soft   the model summarises it; the summary replaces all steps
    hard   all steps are dropped

After a trim the system prompt, the task, the notepad and the newest output stay. Every prompt and its reply together have at most
`max_tokens`, however much a cell prints.
"""

from dataclasses import dataclass

from lzero.agent.conversation import Conversation
from lzero.agent.outputs import cut
from lzero.agent.prompt import SUMMARISE, budget_line, output_turn, task_turn, trimmed_turn
from lzero.config import AgentConfig

_SHARES = 4
"""After a trim, newest output, notepad and summary each get at most one of this many shares of the limit; a reply gets the rest."""


@dataclass(frozen=True)
class News:
    """The news for the model after a step."""

    output: str
    """Output of the step's cell, as text, or the reason why nothing ran."""
    notepad: str
    """The notepad as `render_notepad` returns it; "" for an empty one."""
    steps_left: int
    seconds_left: int | None = None
    """Seconds left for cells and tool calls, if they are few; otherwise None."""


class Context:
    """The model's view of one episode. It is held in `conversation`, and never exceeds `agent.max_tokens`.

    In each step, sample a reply of at most `room` tokens, then call `tell` with the result. If that returns False, there is no room: with
    memory "soft", call `ask_for_summary` and sample the summary; then `trim`.
    """

    def __init__(self, agent: AgentConfig, conversation: Conversation, *, system: str | None, question: str) -> None:
        self._agent = agent
        self._conversation = conversation
        self._system = system
        self._question = question
        self._limit = agent.max_tokens
        conversation.start(system, task_turn(agent, question))
        if agent.memory == "soft":
            self._limit -= conversation.count_tokens(SUMMARISE) + agent.summary_tokens

    @property
    def room(self) -> int:
        """Number of tokens that the next reply may have; below 1 there is no room for one."""
        return min(self._agent.response_tokens, self._limit - self._conversation.num_tokens)

    def tell(self, news: News) -> bool:
        """Add the news to the conversation. Return False, without adding it, if there is no room for it and a reply."""
        text = output_turn(news.output, notepad=news.notepad, left=self._left(news))
        reply = 1 if self._agent.memory == "none" else self._agent.response_tokens
        if self._conversation.num_tokens + self._conversation.count_tokens(text) + reply > self._limit:
            return False
        self._conversation.say(text)
        return True

    def ask_for_summary(self) -> int:
        """Ask the model to summarise its steps. Return the most tokens that its summary may have."""
        self._conversation.say(SUMMARISE)
        return min(self._agent.summary_tokens, self._agent.max_tokens - self._conversation.num_tokens)

    def trim(self, news: News, *, summary: str = "") -> None:
        """Begin a new conversation with the parts that stay, and with room for a reply if that is possible."""
        left = budget_line(news.steps_left, self._agent.max_tokens, news.seconds_left)
        self._conversation.start(self._system, self._trimmed("", "", "", left))
        reply = min(self._agent.response_tokens, self._limit // _SHARES)
        room = max(0, self._limit - self._conversation.num_tokens - reply)
        share = min(self._agent.max_tokens // _SHARES, room // (_SHARES - 1))
        text = self._trimmed(
            self._fit(summary, share), self._fit(news.output, share), self._fit(news.notepad, share), left
        )
        self._conversation.start(self._system, text)

    def _trimmed(self, summary: str, output: str, notepad: str, left: str) -> str:
        return trimmed_turn(self._agent, self._question, summary=summary, output=output, notepad=notepad, left=left)

    def _left(self, news: News) -> str:
        tokens = max(0, self._limit - self._conversation.num_tokens)
        return budget_line(news.steps_left, tokens, news.seconds_left)

    def _fit(self, text: str, max_tokens: int) -> str:
        """Return the text or, if it is too long, its head and tail with a note on the size."""
        chars = len(text)
        while text and (tokens := self._conversation.count_tokens(text)) > max_tokens and chars > _SHARES:
            # Shrink by at least a tenth: if head and tail hold most of the tokens, the exact share could take a thousand rounds.
            chars = min(chars * 9 // 10, chars * max_tokens // tokens)
            text = cut(text, chars)
        return text
