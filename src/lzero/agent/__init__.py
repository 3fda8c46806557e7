"""NB-Agent: a model acts by writing code into a live Python session, step by step, until it submits an answer."""
