"""NB-Agent: a model acts by writing code into a live Python session, step by step, until it submits an answer.

People use it as `NBAgent`; training runs the same `episode.run_episode`.
"""

from lzero.agent.nb_agent import NBAgent, make_task
from lzero.agent.watch import Watcher

__all__ = ["NBAgent", "Watcher", "make_task"]
