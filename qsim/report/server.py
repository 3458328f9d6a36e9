"""A page of a study that is being run, for the browser of this machine.

The server listens on 127.0.0.1 alone, and answers GET and HEAD of two addresses: ``/``, the page,
and ``/data.json?since=VERSION``, what has changed. It answers only those who ask for it by the name
of this machine, so that no other site can reach it through a name of its own (DNS rebinding).
"""

import contextlib
import hashlib
import json
import re
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from qsim.report.study_page import data_of, page_of, policy_of, render
from qsim.studies.database import FILES, Database
from qsim.studies.description import described

__all__ = ["Live", "serve", "server_of"]

HOST = "127.0.0.1"
QUERY = re.compile(r"/data\.json\?since=([0-9a-f]{0,64})")
REST = 4  # times as long as making the data took, they are not made again
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Live:
    """What the folder of a study has, made anew when its files have changed.

    Args:
        folder: the folder.

    Raises:
        ValueError: if it holds no study.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._version, self._data, self._rested = "", {}, 0.0
        try:
            self.page()
        except ImportError as error:
            raise ValueError("a page needs Jinja2: pip install 'jax-qsim[report]'") from error
        self._renew()

    def page(self) -> str:
        """The page, which asks for its data."""
        with Database.open(self.folder) as database:
            return render({**described(database), "conditions": {}}, [], live=True)

    def news(self, since: str) -> dict[str, Any]:
        """The version of the data, and the data if it is another than one that is known."""
        with self._lock:
            if time.monotonic() > self._rested and self._version != self._state():
                self._renew()
            known = {} if since == self._version else {"data": self._data}
            return {"version": self._version, **known}

    def _renew(self) -> None:
        began, version = time.monotonic(), self._state()  # before: what changes since is news
        self._data = data_of(*page_of(self.folder))
        self._version = version
        now = time.monotonic()
        self._rested = now + REST * (now - began)

    def _state(self) -> str:
        """A digest of what changes when something is written to the folder, not when it is read."""
        found = []
        for name in FILES:
            with contextlib.suppress(FileNotFoundError):
                at = (self.folder / name).stat()
                if at.st_size:  # who reads makes an empty log
                    found.append((name, at.st_size, at.st_mtime_ns))
        return hashlib.sha256(repr(found).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    server_version, sys_version = "qsim", ""
    timeout = 30  # seconds that a connection may be silent

    def do_GET(self) -> None:
        """The page or the data."""
        if not self._is_ours():
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "ask for localhost or 127.0.0.1")
        elif self.path == "/":
            self._made("text/html", self.server.live.page)
        elif found := QUERY.fullmatch(self.path):
            self._made("application/json", lambda: json.dumps(self.server.live.news(found[1])))
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "there is / and nothing else")

    do_HEAD = do_GET

    def _is_ours(self) -> bool:
        port = self.server.server_address[1]
        asked = self.headers.get_all("Host", [])
        return asked in ([f"{HOST}:{port}"], [f"localhost:{port}"])

    def _made(self, kind: str, make: Callable[[], str]) -> None:
        try:
            text = make()
        except (ValueError, OSError):  # while the folder is being moved, repaired or deleted
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", "the study cannot be read")
        else:
            self._send(HTTPStatus.OK, kind, text)

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """Ends them with those that every answer has."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        policy = f"{policy_of(live=True)}; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the study's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    live: Live

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers that leave are nothing to tell of."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server_of(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a study's page, which ``serve_forever`` runs.

    Args:
        folder: the folder of the study.
        port: of 127.0.0.1; any that is free by default, ``server_address[1]`` says which.

    Raises:
        ValueError: if the folder holds no study, or the port is taken.
    """
    live = Live(folder)
    try:
        made = _Server((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"cannot serve at port {port} ({error}): choose another, or 0 for any that is free"
        ) from error
    made.live = live
    return made


def serve(
    folder: Path, port: int = 0, *, open: bool = False, told: Callable[[str], None] = print
) -> None:
    """Serves a study's page until Ctrl-C.

    Args:
        folder, port: as for ``server_of``.
        open: whether to open it in the browser.
        told: is called with the address.

    Raises:
        ValueError: if the folder holds no study, or the port is taken.
    """
    with server_of(folder, port) as made:
        address = f"http://{HOST}:{made.server_address[1]}/"
        told(f"{address}  (Ctrl-C stops)")
        if open:
            webbrowser.open(address)
        try:
            made.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return
