"""A threading HTTP server with bounds on its connections: their number, and how long they idle."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

IDLE_S = 20  # that a connection may wait for its next bytes
MOST_CONNECTIONS = 64  # a browser opens six
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class BoundedServer(ThreadingHTTPServer):
    """Answers connections beyond a number by 503."""

    request_queue_size = 2 * MOST_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any]) -> None:
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread, if fewer than the most run."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        try:
            request.settimeout(1)
            request.sendall(_BUSY)
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone, and nobody waits for an answer
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def is_known_host(header: str | None, *, served_at: str) -> bool:
    """Whether a request's Host is an address of this machine, and no name of another site.

    A page of another site could otherwise have its name point here and read the answers.

    >>> [is_known_host(host, served_at="127.0.0.1") for host in ("localhost:80", "[::1]", "a.org")]
    [True, True, False]
    """
    try:
        name = urlsplit(f"//{header}").hostname if header else None
        if name in ("localhost", served_at.lower()):
            return True
        ipaddress.ip_address(name or "")
    except ValueError:
        return False
    return True
