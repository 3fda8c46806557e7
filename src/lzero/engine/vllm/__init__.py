"""Sample from vLLM servers, which lzero starts or joins.

kind.py       opens the engine of a configuration
engine.py     requests of many episodes, spread over replicas
server.py     one server, by its HTTP routes
process.py    starts a server, and ends it with all its processes; lifeline.py ends it when lzero dies
plugin/       runs inside vLLM: loads the weights of a file
"""
