"""Sample from vLLM servers, which lzero starts or joins.

kind.py       opens the engine of a configuration
program.py    the command and environment of a server that lzero starts
engine.py     samples from all replicas, and sends commands to all
replica.py    samples from one replica
routing.py    chooses the replica of a request, and queues requests
places.py     bounds the requests of a server by its load, and wakes tasks that wait for one
codec.py      checks requests, and converts responses to completions
adapters.py   assigns a LoRA adapter to each request
server.py     calls the HTTP routes of one server
delivering.py how new weights reach the servers
placed.py     starts servers on the nodes of a cluster
supervisor.py watches a server, and restarts it
plugin/       runs inside vLLM: loads the weights of a file
"""
