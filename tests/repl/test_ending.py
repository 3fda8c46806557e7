"""How a process of a REPL ended, in words."""

import signal

from lzero.repl.cells import how_ended


def test_an_end_is_told_by_code_or_signal_also_one_without_a_name() -> None:
    assert how_ended(3) == "exited with code 3"
    assert how_ended(-signal.SIGKILL) == "was killed by SIGKILL"
    assert how_ended(-(signal.SIGRTMIN + 1)) == f"was killed by signal {signal.SIGRTMIN + 1}"
