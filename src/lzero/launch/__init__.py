"""Start the programs of a run: pool servers, vLLM servers, ranks of the trainer.

    async with open_launcher() as launcher:
        rank = await launcher.launch(Program(name="rank 1", role="rank", command=(PYTHON, "-m", "lzero.train.ranks")))

protocol.py   the interface
local.py      on this machine
lifeline.py   ends a program when lzero dies
ray.py        on the nodes of a Ray cluster; ray_node.py runs there
pools.py      keeps a pool server on every node for sandboxes
addresses.py  the file that says where servers are
"""

from lzero.config.run import HERE, LaunchConfig
from lzero.launch.local import LocalLauncher
from lzero.launch.protocol import HOST, PORT, PYTHON, Launcher, Node, Program, Running

__all__ = ["HOST", "PORT", "PYTHON", "Launcher", "Node", "Program", "Running", "open_launcher"]


def open_launcher(config: LaunchConfig = HERE) -> Launcher:
    """Return the launcher of a run, not started yet."""
    if config.ray:
        from lzero.launch.ray import RayLauncher

        return RayLauncher(config.ray)
    return LocalLauncher()
