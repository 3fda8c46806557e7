"""The targets under atheris, a coverage-guided fuzzer (libFuzzer for Python): `python tests/support/fuzz_by_coverage.py -runs=100000`.

What guides it is the coverage of our own modules around the decoders. The decoders are msgspec's, compiled and not instrumented:
there it finds what a corpus of valid frames, a dictionary and mutation find. It ends with a code other than 0, and the bytes, at
the first untyped exception, after `-timeout` seconds for one input, or beyond `-rss_limit_mb`.

The first byte of an input chooses the target; then come bodies of frames, one a line, which are given their right lengths. (The
stream target takes the rest as it is.)
"""

import asyncio
import sys

import atheris

with atheris.instrument_imports(include=["lzero.repl", "fuzz_targets"]):
    import fuzz_targets
    from fuzz_targets import REQUESTS, frame

_LOOP = asyncio.new_event_loop()


def target(data: bytes) -> None:
    which, rest = data[:1], data[1:]
    number = which[0] % (len(REQUESTS) + 2) if which else 0
    if number == 0:
        fuzz_targets.decode(rest)
        fuzz_targets.decode_remote(rest)
    elif number == 1:
        _LOOP.run_until_complete(fuzz_targets.read(rest, range(0, len(rest), 1 + len(rest) // 4)))
    else:
        said = b"".join(frame(body) for body in rest.split(b"\n"))
        _LOOP.run_until_complete(fuzz_targets.ask(REQUESTS[number - 2], said))


if __name__ == "__main__":
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
