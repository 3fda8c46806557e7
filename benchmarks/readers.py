"""Scripted policies that answer real questions in one reply: baselines without a model, by rules and without training.

closed_book    for agent.use = "direct": reads the question alone, so it can only choose between what the question names
extractive     for agent.use = "rag": picks a name, date or number of the passages, from the sentence that shares most words with the
               question

    PYTHONPATH=benchmarks lzero eval tasks.eval=dev.jsonl.gz agent.use=rag environment.options.corpus=corpus.jsonl.gz \
        environment.options.results=5 engine.kind=scripted engine.policy=readers:extractive
"""

import re
from collections.abc import Iterator

from lzero.agent.one_reply import INSTRUCTION

YES_NO = re.compile(r"^(?:are|is|was|were|do|does|did|has|have|had|can|could)\b", re.IGNORECASE)
CLAUSE = re.compile(r"[,:] |\b(?:[a-z]+(?:er|re|st)),? ")
NAME = re.compile(
    r"\b[A-Z][\w'’&.\-]*(?:\s+(?:of|the|and|de|la|von|van|in|for|&)(?=\s+[A-Z])|\s+[A-Z][\w'’&.\-]*|\s+\d{1,4}\b)*"
)
DATE = re.compile(
    r"\b(?:\d{1,2} )?(?:January|February|March|April|May|June|July|August|September|October|November|December)(?: \d{1,2},?)? \d{4}\b"
    r"|\b1[0-9]{3}\b|\b20[0-9]{2}\b"
)
NUMBER = re.compile(r"\b\d[\d,.]*\d\b|\b\d\b|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b")
SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
WORD = re.compile(r"\w+")
COMMON = frozenset(
    WORD.findall(
        "a an the of in on at to for from by with and or is are was were be been being did do does has have had what which who whom "
        "whose when where why how that this these those it its he she his her they their as both also one same other many much named "
        "called first known there between during while after before into than"
    )
)


def closed_book(transcript: str, seed: int) -> str:
    """Answer without looking anything up: "no" to a yes-or-no question, else the first alternative or the last name in the question."""
    question, _ = parts(transcript)
    if options := alternatives(question):
        return options[0]
    if YES_NO.match(question):
        return "no"
    names = [match.group() for match in NAME.finditer(question[1:])]
    return names[-1] if names else "unknown"


def extractive(transcript: str, seed: int) -> str:
    """Answer with a span of the passages; without passages, as `closed_book`."""
    question, passages = parts(transcript)
    if not passages or (YES_NO.match(question) and not alternatives(question)):
        return closed_book(transcript, seed)
    wanted = content(question)
    if options := alternatives(question):
        return max(options, key=lambda option: _support(option, passages, wanted))
    spans = [
        (score, span)
        for rank, passage in enumerate(passages)
        for score, span in _spans(passage, rank, question, wanted)
    ]
    return max(spans, key=lambda pair: pair[0])[1] if spans else closed_book(transcript, seed)


def parts(transcript: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the question of a transcript, and its passages as (title, text)."""
    asked = transcript.rpartition(f"\n{INSTRUCTION}")[0]
    before, marked, question = asked.rpartition("\n\nQuestion: ")
    if not marked:
        return asked.rpartition("\n")[2].rpartition(">")[2].strip(), []
    lines = before.rpartition("Passages:\n")[2].split("\n")
    return question.strip(), [(title, text) for title, colon, text in (line.partition(": ") for line in lines) if colon]


def alternatives(question: str) -> list[str]:
    """Return the two things between which a question asks to choose; [] if it does not."""
    left, marked, second = question.rstrip(" ?").rpartition(" or ")
    first = CLAUSE.split(left.rstrip(" ,"))[-1].strip()
    return [first, second.strip()] if marked and first[:1].isupper() and second.strip()[:1].isupper() else []


def content(text: str) -> set[str]:
    """Return the words that tell something, in lower case."""
    return {word for word in map(str.lower, WORD.findall(text)) if word not in COMMON}


def _support(option: str, passages: list[tuple[str, str]], wanted: set[str]) -> int:
    """Return how many words of the question the best passage about an option has; 0 without one."""
    own = content(option)
    about = (text for title, text in passages if own & content(title + text[:80]))
    return max((len(wanted & content(text)) for text in about), default=0)


def _spans(passage: tuple[str, str], rank: int, question: str, wanted: set[str]) -> Iterator[tuple[float, str]]:
    """Yield spans of the kind that the question asks for, with the overlap of their sentence and the question."""
    title, text = passage
    about = wanted & content(title)
    kind = _kind(question)
    for number, sentence in enumerate(SENTENCE.split(text)):
        overlap = len((wanted & content(sentence)) | about)
        for match in kind.finditer(sentence):
            span = match.group().strip(" .,'’")
            if span and not content(span) <= wanted:
                yield overlap - 0.3 * rank - 0.1 * number + 0.2 * min(3, len(span.split())), span
    if kind is NAME and not content(title) & wanted:
        yield len(wanted & content(text)) - 0.3 * rank, re.sub(r" \(.*\)$", "", title)


def _kind(question: str) -> re.Pattern[str]:
    asked = question.lower()
    if re.search(r"\bwhen\b|\b(?:what|which|in what) (?:year|date|month)\b|\bdate of\b", asked):
        return DATE
    if re.search(
        r"\bhow (?:many|much|long|old|far|tall|high|large)\b|\bwhat (?:number|percentage|population)\b", asked
    ):
        return NUMBER
    return NAME
