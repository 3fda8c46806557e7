"""The attacks again beside neighbours that work: none of them notices. `make test` runs a seeded sample beside five of them,
`make test-long` all of them beside fifty."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from cases import shown_by
from fault_traces import sessions
from neighbours import neighbours_in

from lzero.repl import LocalPool

pytestmark = pytest.mark.sandbox
SECURITY = Path(__file__).parents[1] / "security"
SAMPLE = 2
"""Cases, each with one of its tests."""


def attacks(*arguments: str, timeout_s: float) -> str:
    """Return pytest's output for these arguments, after all tests passed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def slowest_ms(said: str) -> list[int]:
    """Return for each test the time of a neighbour's slowest cell."""
    return [int(line.split()[-2]) for line in said.splitlines() if line.startswith("slowest cell of a neighbour")]


@pytest.mark.timeout(600)
def test_a_sample_of_the_attacks_is_noticed_by_none_of_five_neighbours() -> None:
    cases, dice = shown_by(), random.Random(7)
    tests = {dice.choice(cases[number]) for number in dice.sample(sorted(cases), SAMPLE)}
    said = attacks(*(f"{SECURITY / file}::{name}" for file, name in sorted(tests)), "--neighbours", "5", timeout_s=550)
    assert len(slowest_ms(said)) >= SAMPLE


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_attack_is_noticed_by_none_of_fifty_neighbours() -> None:
    said = attacks(str(SECURITY), "--neighbours", "50", timeout_s=3500)
    times = sorted(slowest_ms(said))
    print(
        f"{said.splitlines()[-1]}; slowest cells of neighbours: median {times[len(times) // 2]} ms, most {times[-1]} ms"
    )


async def test_neighbours_notice_what_there_is_to_notice() -> None:
    async with LocalPool() as pool, neighbours_in(pool, 2) as neighbourhood:
        report = await neighbourhood.report()
        assert report["noticed"] == []
        (first, _) = sorted(sessions(), key=lambda process: process.pid)
        first.kill()
        report = await neighbourhood.report()
        assert "neighbour 0: killed" in str(report["noticed"])
        assert "neighbour 1" not in str(report["noticed"])
