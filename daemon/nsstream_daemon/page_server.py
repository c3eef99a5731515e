"""PageServer: a few pages over HTTP at a port of 127.0.0.1, one thread: metrics, and whether all is well."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final

from nsstream.errors import OutputError

_log = logging.getLogger(__name__)

TIMEOUT_S: Final = 2.0  # of one client, who holds up the others for so long
Pages = Callable[[str], tuple[int, str, bytes]]  # a path to its status, content type and content


class PageServer:
    """Serves pages at a port; port 0: not at all.

    Args:
        port: of 127.0.0.1.
        setting: what an operator gives the port by.
        pages: asked in the server's thread.
        on_death: told where that ends by a defect.
    """

    def __init__(self, port: int, setting: str, pages: Pages, on_death: Callable[[str, BaseException], None]) -> None:
        self._port, self._setting, self._pages, self._on_death = port, setting, pages, on_death
        self._server: HTTPServer | None = None
        self._thread = threading.Thread(target=self._guarded, name="metrics", daemon=True)

    def listen(self) -> None:
        """Take the port; who asks waits until `start`. Raises OutputError where it is taken."""
        if not self._port:
            return
        pages = self._pages

        class Handler(BaseHTTPRequestHandler):
            """Answers one request."""

            timeout = TIMEOUT_S

            def do_GET(self) -> None:
                """Serve a page."""
                code, kind, body = pages(self.path)
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Say nothing: who asks is no news."""

        try:
            self._server = HTTPServer(("127.0.0.1", self._port), Handler)
        except OSError as err:
            raise OutputError(
                f"cannot serve metrics at 127.0.0.1:{self._port}: {err.strerror}; give another {self._setting}"
            ) from err

    def start(self) -> None:
        """Serve, in a thread; again, it changes nothing."""
        if self._server is not None and self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            if self._thread.ident is not None:
                self._server.shutdown()
                self._thread.join()
            self._server.server_close()
            self._server = None

    def _guarded(self) -> None:
        assert self._server is not None
        try:
            self._server.serve_forever(poll_interval=0.2)
        except BaseException as err:  # the boundary of the thread
            _log.exception("thread_died name=metrics")
            self._on_death("metrics", err)
