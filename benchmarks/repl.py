"""What a sandboxed REPL costs: `python benchmarks/repl.py [--json] [--only NAME] [--live 200] [--sessions 200]`.

A table of figures, each with what it should reach. The yardstick of the same run is a Jupyter kernel in a plain bubblewrap jail,
spoken to through jupyter_client (`repl_yardstick.py`; it needs the extra `jupyter`).
"""

import argparse
import asyncio
import json
import resource
from dataclasses import asdict

from figures import Figure, table
from repl_figures import FIGURES, Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--only", choices=[figure.__name__ for figure in FIGURES], help="measure only this")
    parser.add_argument("--sessions", type=int, default=200, help="sessions one after the other")
    parser.add_argument("--live", type=int, default=200, help="sessions that live at once (1000: the whole figure)")
    parser.add_argument("--killed", type=int, default=500, help="sessions that are killed at once")
    parser.add_argument("--yardsticks", type=int, default=7, help="starts of the yardstick")
    arguments = parser.parse_args()
    settings = Settings(arguments.sessions, arguments.live, arguments.killed, arguments.yardsticks)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a descriptor for every live session
    figures = asyncio.run(measure(settings, arguments.only))
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))


async def measure(settings: Settings, only: str | None) -> list[Figure]:
    found = []
    for figure in FIGURES:
        if only in (None, figure.__name__):
            found += await figure(settings)
    return found


if __name__ == "__main__":
    main()
