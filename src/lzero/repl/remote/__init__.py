"""Use REPLs on other machines: a server offers a pool, and a pool of the client opens REPLs on servers."""
