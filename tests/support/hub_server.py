"""A small Hugging Face Hub on loopback: data sets of files in memory, as `datasets` asks for them."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """The state of a server. `sets`: OWNER/NAME → path → content."""

    sets: Mapping[str, Mapping[str, bytes]]
    gated: frozenset[str] = frozenset()
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the class it derives from)
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        name = "/".join(urlsplit(self.path).path.split("/")[3:5])
        files = self.hub.sets.get(name, {})
        self._json([_entry(path, files[path]) for path in asked.get("paths", []) if path in files])

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[0] == "api"
        kind, name, rest = parts[is_api : is_api + 1], "/".join(parts[is_api + 1 : is_api + 3]), parts[is_api + 3 :]
        files = self.hub.sets.get(name)
        if kind != ["datasets"] or files is None:
            self._send(404, error="RepoNotFound")
        elif is_api and rest[:1] == ["tree"]:
            self._json(_tree(files, "/".join(rest[2:])))
        elif is_api:
            self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": []})
        elif name in self.hub.gated:
            self._send(403, error="GatedRepo")
        elif (path := "/".join(rest[2:])) not in files:
            self._send(404, error="EntryNotFound")
        else:
            self._send(200, files[path], ETag=f'"{hashlib.sha1(files[path], usedforsecurity=False).hexdigest()}"')

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes = b"", *, error: str = "", **headers: str) -> None:
        self.send_response(status)
        for header, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(path: str, content: bytes) -> dict[str, object]:
    oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "path": path}


def _tree(files: Mapping[str, bytes], below: str) -> list[dict[str, object]]:
    prefix = f"{below}/" if below else ""
    inner = [path for path in files if path.startswith(prefix)]
    folders = dict.fromkeys(path[len(prefix) :].split("/")[0] for path in inner if "/" in path[len(prefix) :])
    entries = [_entry(path, files[path]) for path in inner if "/" not in path[len(prefix) :]]
    return entries + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": prefix + name} for name in folders]
