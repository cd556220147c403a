"""Serve the page on this machine alone; it is static, so any other web server will do."""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from onespike.errors import OnespikeError

HOST = "127.0.0.1"


class _Quiet(SimpleHTTPRequestHandler):
    """Files of one folder, with the types that browsers insist on, and without a line for each request."""

    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def end_headers(self) -> None:
        """Keep browsers from caching what the next build replaces."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that go away before they have all."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """Make a server for a folder on 127.0.0.1, on a free port if `port` is 0; `serve_forever` runs it.

    Raises:
        OnespikeError: The port is taken, or may not be used.
    """
    if not 0 <= port <= 65535:
        raise OnespikeError(f"--port: expected 0 (a free one) to 65535, got {port}")
    try:
        return _Server((HOST, port), partial(_Quiet, directory=str(folder)))
    except OSError as error:
        raise OnespikeError(
            f"cannot serve on {HOST}:{port}: {error.strerror or error}; choose another --port"
        ) from error


def address(server: ThreadingHTTPServer) -> str:
    """The address for a browser."""
    return f"http://{HOST}:{server.server_port}/"
