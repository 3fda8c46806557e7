"""Checkpoints of a run on several ranks: each rank writes its own part of the optimizer's state, while training goes on.

    rank 0:  snapshot ── order to keep ──▶ (all ranks copy their parts) ── next update …
    thread          └──▶ tells where ──▶ writes its part ──▶ waits for the others' ──▶ manifest, rename
    rank n:              waits ────────▶ writes its part ──▶ says so, or why not

    checkpoints/update-000010/
        config.json model.safetensors tokenizer.json …   whole weights, as in any checkpoint
        trainer/rank-00000.safetensors …                 each rank's part of moments and float32 weights, by names
        trainer.json                                     the manifest, which names all files of all ranks

Names and offsets say what a part belongs to, so any number of ranks, or a single process, resumes from it.
"""

import logging
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError

from lzero.errors import RankError
from lzero.models import flush
from lzero.train.checkpoint import STATE_DIR
from lzero.train.stored import Parts

logger = logging.getLogger(__name__)
SLOWEST_BYTES_PER_S = 16 << 20
"""Speed of a disk below which a rank that writes counts as one that hangs."""
FORGET = ""
"""Text that rank 0 sends instead of a directory if it writes no checkpoint."""


class Board(Protocol):
    """Store of short texts that ranks send each other (`lzero.train.ranks.group.Group`)."""

    rank: int
    size: int

    def put(self, key: str, text: str) -> None: ...

    def get(self, key: str, *, timeout_s: float = float("inf")) -> str:
        """Wait for a text, and remove it. Raises RankError if a rank fails meanwhile, or it does not come in time."""


class ShardedState:
    """The state of all ranks for one checkpoint, as rank 0 sees it. Implements `lzero.train.checkpoint.State`.

    `number`: different for each checkpoint of a process. `wait_s`: seconds that a rank may need before it begins to write.
    """

    def __init__(self, own: Parts, board: Board, *, number: int, wait_s: float) -> None:
        self._own = own
        self._board = board
        self._number = number
        self._wait_s = wait_s
        self._told = False

    def write(self, directory: Path) -> None:
        """Let all ranks write their parts; return when all files are complete.

        Raises OSError or SafetensorError if a rank cannot write, with its reason, and RankError if one fails.
        """
        (directory / STATE_DIR).mkdir()
        self._tell(str(directory.absolute()))
        _write(self._own, directory, rank=0)
        board = self._board
        timeout_s = self._wait_s + self._own.num_bytes / SLOWEST_BYTES_PER_S
        answers = [board.get(_written(rank, self._number), timeout_s=timeout_s) for rank in range(1, board.size)]
        if problems := [answer for answer in answers if answer]:
            raise OSError("; ".join(problems))
        flush(directory / STATE_DIR)

    def forget(self) -> None:
        """Let the other ranks forget their parts, unless they have written them."""
        if not self._told:
            self._tell(FORGET)

    def _tell(self, where: str) -> None:
        self._told = True
        for rank in range(1, self._board.size):
            self._board.put(_where(rank, self._number), where)


def write_when_told(parts: Parts, board: Board, *, number: int) -> threading.Thread:
    """Start a thread that writes the parts of this rank to the directory that rank 0 names, and tells rank 0. Return the thread."""
    thread = threading.Thread(target=_obey, args=(parts, board, number), name=f"checkpoint-{number}", daemon=True)
    thread.start()
    return thread


def _obey(parts: Parts, board: Board, number: int) -> None:
    rank = board.rank
    try:
        directory = board.get(_where(rank, number))
        if directory == FORGET:
            return
        answer = ""
        try:
            _write(parts, Path(directory), rank=rank)
        except (OSError, SafetensorError) as error:
            answer = f"rank {rank} on {socket.gethostname()} cannot write its part: {error}"
            if not Path(directory).is_dir():
                answer += "; the run's directory has to be one that all ranks share (run.dir)"
        board.put(_written(rank, number), answer)
    except RankError as error:  # the run ends, and rank 0 reports why
        logger.debug("checkpoint %d: %s", number, error)
        with suppress(RuntimeError):  # the store has ended with rank 0
            board.put(_written(rank, number), f"rank {rank} wrote no part: {error}")


def _write(parts: Parts, directory: Path, *, rank: int) -> None:
    file = directory / STATE_DIR / f"rank-{rank:05d}.safetensors"
    parts.write(file)
    flush(file)


def _where(rank: int, number: int) -> str:
    return f"checkpoint/{number}/{rank}/where"


def _written(rank: int, number: int) -> str:
    return f"checkpoint/{number}/{rank}/written"
