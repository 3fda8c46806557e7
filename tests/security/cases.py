"""The attacks and accidents that the sandbox is tested against, by number and by what they would harm.

A test names its case with `@attack(22)`. Every case has a test, or a sentence in `WITHOUT_TEST` that says why not; `docs/sandbox.md`
shows the table that `table()` makes of both.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

Kind = Literal["Escape", "HostLeak", "Exfil", "Lateral", "HostDoS", "PeerDoS", "SelfDoS", "RewardHacking", "Stealth"]


@dataclass(frozen=True)
class Case:
    number: int
    kind: Kind
    title: str
    outcome: str
    """The required outcome."""


CASES = tuple(
    Case(*fields)
    for fields in (
        # resources
        (1, "PeerDoS", "fork bomb", "forking fails inside; siblings fork and answer"),
        (2, "PeerDoS", "thread bomb", "starting a thread fails inside; siblings answer"),
        (3, "SelfDoS", "one huge allocation", "MemoryError; the session lives"),
        (4, "HostDoS", "memory that many processes grow slowly", "killed, reason memory; siblings untouched"),
        (5, "HostDoS", "memory in memfd, tmpfs and shared memory", "counted and capped"),
        (6, "HostDoS", "locked and huge mappings", "refused"),
        (7, "HostDoS", "a workspace filled to the brim", "no space left, inside only"),
        (8, "HostDoS", "files without number", "no space left, inside only"),
        (9, "HostDoS", "sparse giants, deep trees, long names", "bounded; closing is clean"),
        (10, "HostDoS", "descriptors without number, in flight too", "too many open files, inside only"),
        (
            11,
            "PeerDoS",
            "spinning on all cores, asking for priority",
            "priority refused; siblings answer; the deadline fires",
        ),
        (12, "SelfDoS", "a loop in C that no interrupt reaches", "interrupted in vain, then killed"),
        (13, "SelfDoS", "a cell that ignores interrupts", "killed, whatever it catches"),
        (14, "SelfDoS", "exit, abort, segmentation fault", "reported, never counted as success"),
        (15, "SelfDoS", "recursion without limit", "that session alone may die"),
        (16, "HostDoS", "a flood of output", "head and tail are kept; the host stays flat"),
        (17, "HostDoS", "a flood of rich output, representations that loop", "capped; the deadline holds"),
        (18, "PeerDoS", "a daemon that outlives its cell", "dies with the session"),
        (19, "SelfDoS", "zombies by the thousand", "orphans are reaped, others bounded; siblings untouched"),
        (20, "Lateral", "a thread that prints after its cell", "never in another session's output"),
        (21, "SelfDoS", "waiting for input, debuggers", "an error at once, or the deadline"),
        # processes and signals
        (22, "Lateral", "reading /proc of others", "only own pids are there"),
        (23, "Lateral", "tracing and reading the memory of others", "refused"),
        (24, "Lateral", "signals to everybody and to parents", "reach nobody else"),
        (25, "SelfDoS", "killing its own init", "does nothing, or ends the session, reported"),
        (26, "Escape", "undoing its own supervision", "supervision does not depend on it"),
        (27, "Escape", "terminals, sessions, injected typing", "there is no terminal; refused"),
        (28, "HostLeak", "core dumps", "none is written; the host's handler does not run"),
        # files
        (29, "HostLeak", "the host's secrets and homes", "are not there"),
        (30, "Lateral", "poisoning the interpreter and shared files", "read-only; others are unaffected"),
        (31, "HostLeak", "a link that points out of the workspace", "refused; the host opens nothing"),
        (32, "HostLeak", "links swapped, devices offered while files are fetched", "regular files, or refused"),
        (33, "HostDoS", "archives that climb or explode", "the host unpacks none; inside they meet the limits"),
        (34, "HostDoS", "hostile file names", "come through or are refused; no shell on the host"),
        (35, "Escape", "set-user-id programs", "give nothing"),
        (36, "Escape", "devices", "absent; cannot be made"),
        (37, "Escape", "file handles and fanotify", "refused"),
        (38, "Escape", "descriptors that were left open", "only the session's own"),
        (39, "Escape", "writing to /proc and /sys", "refused"),
        # kernel interfaces
        (40, "Escape", "io_uring, bpf, perf, userfaultfd, modules, kexec", "refused"),
        (41, "Lateral", "kernel keyrings", "refused"),
        (42, "Escape", "new and foreign namespaces", "refused"),
        (43, "Escape", "mounts, old and new interface, chroot", "refused"),
        (44, "Escape", "control groups", "not mounted; refused"),
        (45, "HostDoS", "clock, host name, reboot", "refused; the host's are unchanged"),
        (46, "Escape", "other ABIs and personalities", "end the process, or are refused"),
        (47, "Escape", "rare socket families", "refused; socket pairs work"),
        (48, "HostLeak", "side channels: timing, caches", "not covered"),
        # network and interprocess communication
        (49, "Exfil", "the internet, the host's network, cloud metadata", "unreachable at once"),
        (50, "Exfil", "names resolved as a channel", "no resolver"),
        (51, "Lateral", "abstract sockets between sessions", "not shared"),
        (52, "Lateral", "loopback between sessions", "not shared"),
        (53, "Lateral", "System V and POSIX names between sessions", "not shared"),
        (54, "Lateral", "covert channels through what is shared", "nothing shared is writable"),
        # protocol and broker
        (55, "HostDoS", "frames that are none", "that session is killed; the host stays flat"),
        (56, "Escape", "forged, replayed and early frames", "no effect but on the session's own outputs"),
        (57, "Escape", "serialised objects sent to the host", "never decoded"),
        (58, "HostDoS", "floods and trickles of frames", "bounded by the deadline; others go on"),
        (59, "HostDoS", "tools called too often, wrongly, too largely", "refused, by name"),
        (60, "HostLeak", "keys of the host", "never in a byte that a session can read"),
        (61, "Escape", "control tokens and escapes in what tools return", "plain text"),
        (62, "SelfDoS", "looking for the answer, patching the judge", "answers and judges are outside"),
        (63, "SelfDoS", "hooks that break the session's own loop", "that session alone is harmed"),
        # faults
        (64, "HostDoS", "SIGKILL of zygote, pool or host", "all ends; nothing is left; the next one starts"),
        (65, "SelfDoS", "a session that is stopped", "the deadline holds"),
        (66, "Escape", "killed at any step of the start", "a typed failure; nothing runs unsandboxed"),
        (67, "HostDoS", "no descriptors, pids or space left on the host", "refused with the reason; others go on"),
        (68, "Escape", "a machine without namespaces or filters", "refused with what to do"),
        (69, "HostDoS", "a thousand at once, for hours", "nothing grows"),
        (70, "Lateral", "two forks of one zygote", "random where it must be, seeded where it should"),
        (71, "Lateral", "what the zygote leaves to its children", "one thread, no secret, no open socket"),
        (72, "Lateral", "a late word of a dead session", "reaches nobody"),
        # memory beside resident sets
        (
            73,
            "HostDoS",
            "memory of processes that come and go, as do their threads, or whose first thread has ended",
            "killed, reason memory",
        ),
        (74, "HostDoS", "memory in socket buffers", "killed, reason memory; larger buffers refused"),
        (75, "HostDoS", "shared memory that is of no file, and not mapped any more", "refused"),
        (
            76,
            "HostDoS",
            "pages pinned in pipes and sockets (splice, tee, vmsplice, sendfile)",
            "refused; programs copy instead",
        ),
        (
            77,
            "HostDoS",
            "memory of the kernel's own: access lists, Landlock rules, filters, tables of futexes",
            "refused",
        ),
        (
            78,
            "HostDoS",
            "a host without control groups",
            "every run and the probe name what is not bounded, and how to bound it",
        ),
        # what is counted for all, and what all share
        (79, "PeerDoS", "signals and timers in waiting", "bounded and counted per session; siblings have theirs"),
        (
            80,
            "PeerDoS",
            "pipes, and descriptors in flight",
            "as root, each session has its own; else named by the probe",
        ),
        (
            81,
            "HostDoS",
            "what the machine has once: filters on sockets, huge pages, aio, sync, watches of its load",
            "refused",
        ),
        (82, "PeerDoS", "leases that hold up who opens a shared file", "refused"),
        (
            83,
            "Lateral",
            "marks on shared files, which of their pages are in memory, which pages of others are equal",
            "refused, or read-only",
        ),
        (84, "Lateral", "signals between sessions that cooperate", "not covered"),
        # failing on purpose
        (85, "RewardHacking", "stalling in cells and tool calls, so as to be lost", "out of time, and scored"),
        (86, "RewardHacking", "breaking its session or a tool, so as to fail", "the agent's doing, and scored"),
        # what the host's tools share
        (87, "PeerDoS", "slow files by the dozen", "their own fault; the others take their turns"),
        (88, "PeerDoS", "a call whose answer looks like the end of a server", "fails alone; calls in flight go on"),
        (
            89,
            "PeerDoS",
            "calls without number, or that hang, at what all share",
            "bounded; the others wait a turn, on no clock",
        ),
        # files of strangers
        (90, "HostLeak", "a saved run that names files of the host", "only copies beside it, and files that you name"),
        (91, "HostDoS", "a saved run with limits of its own", "your limits, or tighter ones"),
        (92, "HostLeak", "models, checkpoints, corpora and sets that name or link to files elsewhere", "refused"),
        (93, "HostDoS", "files that break, fill or stop their reader", "a typed error within a bound"),
        (94, "HostDoS", "tokenizers and templates that panic, do not end, or make a text huge", "a ModelError"),
        # texts that are shown
        (
            95,
            "Stealth",
            "invisible characters in outputs, pages and names",
            "neither a model nor a person is shown them",
        ),
        (96, "Escape", "text that looks like lzero's frame or a control token", "cannot be mistaken for it"),
        # servers and clients, before anything is trusted
        (97, "HostDoS", "a request without end, before the token", "the connection ends at some kilobytes"),
        (98, "HostDoS", "connections without number or without a word, before the token", "bounded in number and time"),
        (99, "HostDoS", "a server that answers its client without end", "a typed failure, within bounds"),
        (100, "PeerDoS", "texts that take the square of their length", "linear, or bounded"),
        (
            101,
            "PeerDoS",
            "a process that keeps the host from reading its memory, or ends slowly",
            "killed, reason memory; nobody else waits or ends",
        ),
        (
            102,
            "PeerDoS",
            "arguments of thousands of values, right or wrong",
            "checked in a fraction of a second, or refused",
        ),
        (103, "HostDoS", "images and calls that an update keeps in memory", "bounded for each episode"),
        (
            104,
            "PeerDoS",
            "the host's disk: waiting until it has written, reading past the page cache, maps of its files",
            "answered without it, or refused",
        ),
        (105, "Escape", "a stranger at the store of a run's ranks", "ranks obey none of its texts"),
        (
            106,
            "HostDoS",
            "locks on files without number, and the list of all of them",
            "killed, reason memory; covered",
        ),
        (
            107,
            "PeerDoS",
            "work without number for the host's event loop",
            "done beside it, or in turns with all others",
        ),
    )
)

WITHOUT_TEST: dict[int, str] = {
    48: "not covered: shared cores, caches and clocks carry signals; use a machine of its own where that matters",
    84: "not covered: see What copies and siblings share",
}
"""Case → the reason why it has no test here."""


def attack(number: int) -> pytest.MarkDecorator:
    """Return the mark of a case's test."""
    assert any(case.number == number for case in CASES), number
    return pytest.mark.attack(number)


def shown_by() -> dict[int, list[tuple[str, str]]]:
    """Return case → files and names of its tests, in the order of the files."""
    found: dict[int, list[tuple[str, str]]] = {}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        numbers: list[int] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            if marked := re.match(r"@attack\((\d+)\)", line):
                numbers.append(int(marked[1]))
            elif function := re.match(r"(?:async )?def (test_\w+)", line):
                for number in numbers:
                    found.setdefault(number, []).append((file.name, function[1]))
                numbers = []
    return found


def table() -> str:
    """Return the Markdown table of `docs/sandbox.md`."""
    found = shown_by()
    lines = ["| case | harm | attack | outcome | shown by |", "|---|---|---|---|---|"]
    for case in CASES:
        shown = ", ".join(f"`{name}`" for _, name in found.get(case.number, [])) or WITHOUT_TEST.get(case.number, "")
        lines.append(f"| {case.number} | {case.kind} | {case.title} | {case.outcome} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
