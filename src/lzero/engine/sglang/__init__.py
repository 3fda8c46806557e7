"""Sample from SGLang servers that already run.

**Not verified**: written against the source of SGLang 0.5.23, and never run against a server, because SGLang needs a GPU.

kind.py      opens the engine of a configuration; the engine itself is vllm/engine.py
server.py    calls the HTTP routes of one server
"""
