"""Sample from vLLM servers, which lzero starts or joins.

kind.py       opens the engine of a configuration
engine.py     spreads the requests of many episodes over replicas
codec.py      checks requests, and converts responses to completions
adapters.py   assigns a LoRA adapter to each request
server.py     calls the HTTP routes of one server
process.py    starts a server, and ends it with all its processes
supervisor.py watches a server, and restarts it
lifeline.py   ends a server when lzero dies
plugin/       runs inside vLLM: loads the weights of a file
"""
