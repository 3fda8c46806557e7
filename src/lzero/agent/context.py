"""The context watcher: what the model sees next, within its limit.

    none   the conversation grows; when it is full, the episode is over
    soft   the model sums it up; the summary takes the place of all steps
    hard   all steps go

After a trim the system prompt, the task, the notepad and the newest output stay. Every prompt and the reply to it hold `max_tokens`
together at most, whatever a cell puts out.
"""

from dataclasses import dataclass

from lzero.agent.conversation import Conversation
from lzero.agent.outputs import cut
from lzero.agent.prompt import SUMMARISE, budget_line, output_turn, task_turn, trimmed_turn
from lzero.config import AgentConfig

_SHARES = 4
"""Of the limit: newest output, notepad and summary get one each after a trim, at most; a reply has the rest."""


@dataclass(frozen=True)
class News:
    """What the model is told after a step."""

    output: str
    """Of the step's cell, as text, or why nothing ran."""
    notepad: str
    """As `render_notepad` writes it; "" for an empty one."""
    steps_left: int
    seconds_left: int | None = None
    """For cells and tool calls, where they are few."""


class Context:
    """What the model sees in one episode: it is said in `conversation`, and never grows beyond `agent.max_tokens`.

    Each step: sample a reply of at most `room` tokens, then `tell` what came of it. Where `tell` returns False there is no room: with
    memory "soft" say `ask_for_summary` and sample it, then `trim`.
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
        """Tokens that the next reply may hold; below 1 there is no place for one."""
        return min(self._agent.response_tokens, self._limit - self._conversation.num_tokens)

    def tell(self, news: News) -> bool:
        """Say what is new. False where there is no room for it and a reply: it has not been said."""
        text = output_turn(news.output, notepad=news.notepad, left=self._left(news))
        reply = 1 if self._agent.memory == "none" else self._agent.response_tokens
        if self._conversation.num_tokens + self._conversation.count_tokens(text) + reply > self._limit:
            return False
        self._conversation.say(text)
        return True

    def ask_for_summary(self) -> int:
        """Ask the model to sum up its steps; the most tokens that its summary may hold."""
        self._conversation.say(SUMMARISE)
        return min(self._agent.summary_tokens, self._agent.max_tokens - self._conversation.num_tokens)

    def trim(self, news: News, *, summary: str = "") -> None:
        """Begin afresh, with what stays, and with room for a reply where there can be any."""
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
        """The text, or its head and tail and how much was cut between them."""
        chars = len(text)
        while text and (tokens := self._conversation.count_tokens(text)) > max_tokens and chars > _SHARES:
            # By a tenth at least: where head and tail hold most of the tokens, the exact share would be found in a thousand steps.
            chars = min(chars * 9 // 10, chars * max_tokens // tokens)
            text = cut(text, chars)
        return text
