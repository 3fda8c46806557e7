"""What a zygote does to its memory: gaps are closed, and code that runs lies together and does what it did."""

import subprocess
import sys

from lzero.repl import jail

GAPS = """
import gc, heap
old = [bytes(100) for _ in range(50_000)]
del old[::2]
pools = {id(one) // 16_384 for one in old}
in_a_gap = id(bytes(100)) // 16_384 in pools
fillers = heap.settle()
fresh = [bytes(100) for _ in range(1_000)]
print(in_a_gap, sum(id(one) // 16_384 in pools for one in fresh), gc.isenabled(), gc.get_freeze_count() > 1_000)
"""


GATHER = """
import gc, heap
source = "".join(f"def f{n}(m=1):\\n    def inner(): return [m + {n} for _ in range(2)]\\n    return inner()\\n" for n in range(2000))
names = {"__name__": "scattered"}
exec(compile(source, "<scattered>", "exec"), names)
used = [names[f"f{n}"] for n in range(0, 2000, 40)]
idle = names["f1"].__code__
def run(): return [f() for f in used]
def pages(): return len({id(part) // 4096 for f in used for part in (f.__code__, *f.__code__.co_consts) if hasattr(part, "co_code")})
before, said = pages(), run()
heap.gather(run)
print(pages() < before / 2, run() == said, names["f40"](2) == [42, 42], names["f1"].__code__ is idle)
"""


def answer(code: str) -> list[str]:
    code = f"import sys\nsys.path.insert(0, {str(jail.INSIDE)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()


def test_new_objects_stay_out_of_the_gaps_between_old_ones() -> None:
    assert answer(GAPS) == ["True", "0", "False", "True"]


def test_code_that_runs_lies_together_and_does_what_it_did() -> None:
    assert answer(GATHER) == ["True"] * 4
