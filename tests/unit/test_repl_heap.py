"""The gaps that a zygote closes are closed: what is allocated next is somewhere else."""

import subprocess
import sys

from lzero.repl import jail

CODE = """
import gc, heap
old = [bytes(100) for _ in range(50_000)]
del old[::2]
pools = {id(one) // 16_384 for one in old}
in_a_gap = id(bytes(100)) // 16_384 in pools
fillers = heap.settle()
fresh = [bytes(100) for _ in range(1_000)]
print(in_a_gap, sum(id(one) // 16_384 in pools for one in fresh), gc.isenabled(), gc.get_freeze_count() > 1_000)
"""


def test_new_objects_stay_out_of_the_gaps_between_old_ones() -> None:
    code = f"import sys\nsys.path.insert(0, {str(jail.INSIDE)!r})\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "0", "False", "True"]
