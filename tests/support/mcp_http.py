"""An MCP server over HTTP, as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "support" / "mcp_server.py"
KEY = "kept-from-everyone"


class HttpServer:
    """A process that serves over HTTP, and can be started again on its port's successor."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "http"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TOKEN": KEY},
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/mcp"
        self.process.stdout.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
