"""Who answers for what goes wrong in an episode: for each kind of failure, and for each error that may end in one.

An episode that fails is begun again and, if it fails again, never scored. So for each of them the question is: can an episode bring this
about by what it does, and is it then better off than with a wrong answer? `test_blame.py` finds all kinds and all places that raise
such an error, and fails for one that has no answer here. `docs/training.md` shows the table of kinds.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import lzero

SOURCE = Path(lzero.__file__).parent
WITH_EPISODES = ("agent/", "engine/", "environments/", "repl/", "rewards/", "rollout/", "tools/", "turns.py")
"""Modules that run while an episode does."""


@dataclass(frozen=True)
class Kind:
    """A kind of `Failure`."""

    means: str
    caused: str
    """Whether an episode can bring it about, and what becomes of it then."""
    shown_by: tuple[str, ...]
    """Tests."""


KINDS = {
    "engine": Kind(
        "the engine fails, or does not answer within `rollout.request_timeout_s`",
        "no, as long as that time is enough for a reply of `agent.response_tokens`; a conversation that is too long for the model is "
        "`out_of_tokens`, and one that the content filter of an endpoint refuses is `refused`",
        (
            "test_an_episode_of_a_recipe_has_time_for_all_that_its_budgets_allow",
            "test_output_that_is_too_long_for_the_model_even_when_trimmed_is_out_of_tokens",
            "test_what_a_content_filter_refuses_is_scored",
            "test_a_question_that_the_judges_content_filter_refuses_is_malformed",
        ),
    ),
    "repl": Kind(
        "a zygote, a sandbox's start or a pool server fails",
        "no: a session that exits, crashes, exceeds a limit or breaks the protocol is killed, and the episode goes on in a fresh one, for "
        "which it waits on its own time",
        (
            "test_an_agent_that_breaks_its_session_is_scored_and_no_better_off_than_with_a_wrong_answer",
            "test_a_session_that_breaks_as_a_tool_reads_its_file_is_scored",
            "test_an_agent_that_killed_its_session_waits_for_another_on_its_own_time",
        ),
    ),
    "pool": Kind(
        "the pool server of the session is lost; the episode runs again on another one, which counts neither as its retry nor towards "
        "the failure limit, up to eight times",
        "no: a session ends without its server; REPLs are bounded, so an agent cannot use up its server's machine",
        ("test_a_killed_server_is_a_typed_failure_and_is_left_out",),
    ),
    "tool": Kind(
        "a tool fails by itself: an exception, a service that is down, a queue that does not move",
        "only through a bug of a tool that certain arguments trigger. A call that takes too long, and a file, a page or arguments that are "
        "odd, are errors that the agent reads",
        (
            "test_a_call_that_takes_too_long_is_the_agents_and_is_told",
            "test_a_call_that_waits_too_long_behind_those_of_its_own_episode_is_the_agents_fault",
            "test_a_slow_archive_is_the_agents_that_made_it",
            "test_a_question_that_takes_the_model_too_long_is_the_agents_fault",
            "test_a_page_that_takes_a_jina_reader_too_long_is_the_agents_and_a_reader_that_is_not_there_the_tools",
        ),
    ),
    "environment": Kind(
        "an environment fails to open a scene, to tell its outcome or to close it",
        "only through a bug of an environment of your own that certain calls of its tools trigger, or by an outcome that grows without "
        "bound: bound what a scene keeps",
        ("test_an_environment_that_fails_is_named_and_its_episode_fails",),
    ),
    "agent": Kind(
        "an agent of your own (`agent.use`) raises, hangs or returns no episode",
        "only through a bug of that agent that certain replies trigger; NB-Agent has none of this kind",
        ("test_an_agent_of_ones_own_that_fails_is_named_and_its_episode_fails",),
    ),
    "reward": Kind(
        "the reward function raises, hangs, or returns what is no reward",
        "only through a bug of a function of your own that certain answers trigger; `lzero check` tries odd answers",
        ("test_a_reward_function_that_fails_on_odd_answers_is_a_problem",),
    ),
    "lost": Kind(
        "engine, sandbox and queues together take more than `rollout.episode_timeout_s` leaves them",
        "no: the time of cells and tool calls is not theirs, nor are waits that the agent multiplies by many calls. An agent that has used "
        "up `agent.work_s` is `out_of_time`",
        (
            "test_time_in_cells_loses_no_episode",
            "test_an_agent_that_stalls_is_scored_and_no_better_off_than_with_a_wrong_answer",
            "test_an_agent_that_calls_without_end_is_out_of_time_however_long_its_calls_wait",
        ),
    ),
    "straggler": Kind(
        "the episode waits for lzero when enough of its round is done (`rollout.stragglers`)",
        "only by long replies, whose time is the engine's: weigh that before you set `rollout.stragglers`. One that has spent more time in "
        "its own cells, and in waits that it multiplied, than waiting for lzero is `out_of_time`",
        (
            "test_an_agent_that_waits_for_its_round_to_end_is_scored",
            "test_multiplied_waits_are_the_agents_where_its_time_is_compared_with_lzeros",
        ),
    ),
}
"""Each of them is never scored; all that an agent can bring about besides has a status that is."""

Whose = Literal["ours", "agent", "code of the user"]


@dataclass(frozen=True)
class Site:
    """Modules that raise an error, as patterns of paths below `src/lzero`."""

    modules: str
    error: str
    """Its class; of ToolError only `fault="tool"` counts, or a fault that is computed."""
    whose: Whose
    why: str


SITES = (
    Site("engine/*", "EngineError", "ours", "the engine or the endpoint fails; the length of replies is bounded"),
    Site(
        "engine/*",
        "NoAnswer",
        "ours",
        "a model server ended, hung or broke the connection; what an agent sends is bounded",
    ),
    Site("engine/*", "TryAgain", "ours", "the endpoint, tried again; in the end an EngineError"),
    Site("engine/*", "ContextOverflow", "agent", "out_of_tokens, unless the task alone is too long"),
    Site("engine/*", "ContentRefused", "agent", "refused, unless the task alone is; for a judge, a malformed verdict"),
    Site("repl/*", "SandboxError", "ours", "the machine gives no isolation, or no longer"),
    Site("repl/*", "ReplError", "ours", "no REPL can be opened"),
    Site("repl/*", "ReplDied", "ours", "a zygote, a start or a server is lost; a session's own end is a killed cell"),
    Site("repl/*", "ServerLost", "ours", "a pool server, or the way to it, is lost"),
    Site("repl/*", "ForkRefused", "ours", "no episode copies its session"),
    *(
        Site(modules, "ProtocolError", "agent", "a session that says what none says: its cell is killed")
        for modules in ("repl/wire.py", "repl/session.py", "repl/files.py", "repl/jupyter/*")
    ),
    Site("repl/remote/*", "ProtocolError", "ours", "between our client and our server, where no session speaks"),
    Site(
        "repl/remote/*",
        "PoolFull",
        "ours",
        "no server has room; once a session was killed, its agent's time runs meanwhile",
    ),
    Site("repl/remote/*", "ServerRefused", "ours", "a server refuses us"),
    Site("agent/scenes.py", "SceneError", "code of the user", "an environment raised, hangs, or tells what is no JSON"),
    Site("environments/*", "SceneError", "code of the user", "a class returned what is no observation, tool or reward"),
    Site("rewards/*", "RewardError", "code of the user", "what a reward function returned is no reward"),
    Site("rollout/scoring.py", "RewardError", "code of the user", "a reward function raised, or hangs"),
    Site(
        "agent/calling.py",
        "ToolError",
        "code of the user",
        "a tool raised: a bug, logged once; if it was asked for too much, the agent's",
    ),
    Site("tools/values.py", "ToolError", "code of the user", "a tool returned what no JSON holds"),
    Site("tools/search.py", "ToolError", "ours", "the index on disk is gone or damaged"),
    Site("tools/converter.py", "ToolError", "ours", "the reader fails before it looks at the file; then the agent's"),
    Site(
        "tools/install.py",
        "ToolError",
        "ours",
        "pip or the package index does not work; a package that the index lacks, and the time of a package, are the agent's",
    ),
    Site("tools/mcp_servers/*", "ToolError", "ours", "the server is gone or breaks the protocol"),
    Site("tools/retry.py", "ServiceError", "ours", "a service has failed all tries"),
    *(
        Site(module, "ServiceError", "ours", "a service fails; a page's trouble is the agent's (read_page)")
        for module in ("tools/web.py", "tools/web_transport.py", "tools/service.py")
    ),
    Site(
        "tools/web_transport.py",
        "Unanswered",
        "ours",
        "a search service is slow; the time of a picture, a question or a page that the agent chose is the agent's (look, read_page)",
    ),
    Site(
        "tools/service.py",
        "AskedTooOften",
        "ours",
        "a service limits its calls: all episodes pause, then take fair turns; in the end a HelperBusy",
    ),
    Site("tools/web_search.py", "ServiceError", "ours", "the search service fails"),
    Site(
        "tools/read_page.py",
        "ServiceError",
        "ours",
        "a site in trouble, until its tries are used up; then it is the agent's",
    ),
    Site("turns.py", "HelperBusy", "ours", "what episodes share is busy for ten minutes, in fair turns"),
)


def found() -> Iterator[tuple[str, str]]:
    """Yield (module, error) for each place that makes an error which may end an episode as failed."""
    errors = {site.error for site in SITES}
    errors |= _subclasses("ReplError", "EngineError", "ToolError", "SceneError", "RewardError")
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE).as_posix()
        if not module.startswith(WITH_EPISODES):
            continue
        if "/inside/" in module or "/in_session/" in module:  # theirs reach the host as messages
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in errors and not (name == "ToolError" and _is_agents(node)):
                yield module, name


def _is_agents(call: ast.Call) -> bool:
    faults = [keyword.value for keyword in call.keywords if keyword.arg == "fault"]
    return bool(faults) and isinstance(faults[0], ast.Constant) and faults[0].value == "agent"


def _subclasses(*names: str) -> set[str]:
    """Return these classes of errors, and all classes of the package that derive from them."""
    bases = {
        node.name: {getattr(base, "id", "") for base in node.bases}
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    known = set(names)
    while more := {name for name, of in bases.items() if of & known} - known:
        known |= more
    return known


def answers(module: str, error: str) -> list[Site]:
    """Return the answers for one place."""
    return [site for site in SITES if site.error == error and fnmatchcase(module, site.modules)]


def table() -> str:
    """Return the Markdown table of `docs/training.md`."""
    lines = ["| failure | meaning | can an episode bring it about? |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind.means} | {kind.caused} |" for name, kind in KINDS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
