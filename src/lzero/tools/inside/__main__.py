"""Read one hostile file in a separate process: a line of JSON and the file's bytes in, a line of JSON out.

Run as `python -I DIRECTORY`. It is restricted before it sees a byte of the file: memory, processor seconds, no writable file, no
connection, no readable files except Python's own. A problem with the file is an answer ("refused"), whatever exception a library raised.
The limit of processor seconds ends the process by a signal. Before it reads the file it writes BEGIN; from then on, the file is the cause
of its end.
"""

import base64
import json
import mimetypes
import os
import re
import resource
import sys
from typing import Any

BEGIN = b"reading\n"
NOT_INSTALLED = 69
"""Exit code where a library cannot be imported."""
FORBIDDEN = re.compile(
    r"(socket|urllib|http|ftplib|subprocess|pty|shutil|tempfile)\."
    r"|os\.(exec|fork|posix_spawn|system|remove|rename|rmdir|mkdir|link|symlink|truncate)"
)
"""Audit events that reading a file never needs."""


def limit(memory_bytes: int, cpu_s: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def refuse_effects() -> None:
    """Raise PermissionError for FORBIDDEN events, and for files other than Python's own. So URLs and paths in a document have no effect.

    It stops libraries that would follow them, not code that controls the process.
    """
    mimetypes.init()  # reads files of the system, once
    roots = tuple(f"{root}/" for root in (*sys.path, sys.prefix, sys.base_prefix) if root)

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, _ = arguments
            path = os.path.normpath(os.fsdecode(path)) if isinstance(path, str | bytes) else ""
            if not path.startswith(roots) or (mode and set(mode) & set("wax+")):
                raise PermissionError(f"it asks for the file {path[:200]!r}")
        elif FORBIDDEN.match(event):
            raise PermissionError(f"it asks for {event}")

    sys.addaudithook(check)


def answer(request: dict[str, Any], data: bytes) -> dict[str, str]:
    from kinds import Refused

    refuse_effects()
    sys.stdout.buffer.write(BEGIN)
    sys.stdout.buffer.flush()
    try:
        if request["image"]:
            from images import small

            media_type, image = small(data, request["max_side"])
            return {"media_type": media_type, "image": base64.b64encode(image).decode()}
        if request.get("url"):
            from pages import markdown

            return {"text": markdown(data, request["url"]).encode(errors="replace").decode()}
        from convert import pieces_of, text_of

        pieces = pieces_of(data, request["name"], request["part"], links=request["links"])
        text = text_of(pieces, request["start"], request["max_chars"])
        return {"text": text.encode(errors="replace").decode()}  # half a surrogate pair is no text
    except Refused as error:
        return {"refused": str(error).encode(errors="replace").decode()}
    except MemoryError:
        return {"refused": "it takes too much memory to read"}
    except RecursionError:
        return {"refused": "it is nested too deep"}
    except ImportError as error:
        if "map" in str(error):  # "failed to map segment from shared object": there is no memory left for the library
            return {"refused": "it takes too much memory to read"}
        sys.exit(NOT_INSTALLED)
    except Exception as error:  # libraries raise anything over a broken file
        what = f"{type(error).__name__}: {error}"[:300].encode(errors="replace").decode()
        return {"refused": f"it is broken, or not what it seems to be ({what})"}


def main() -> None:
    sys.dont_write_bytecode = True
    request: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    limit(request["memory_bytes"], request["cpu_s"])
    reply = answer(request, sys.stdin.buffer.read())
    sys.stdout.buffer.write(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
