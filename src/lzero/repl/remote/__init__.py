"""REPLs of other machines: the server that offers a pool, and the pool that hands its REPLs out."""
