"""Imported last by the process that commands are forked from: what it has imported is never looked at for garbage in a fork, which would
take a quarter of a second each time, and copy all of it."""

import gc

gc.collect()
gc.freeze()
