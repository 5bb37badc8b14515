"""Serve the page of ``examples/web`` with an artifact.

The page is at /, the artifact at /artifact/, and the few files of npm packages that the page needs
at /vendor/. The list of served paths is made at the start; every other path gives 404.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..console.one_line_parser import OneLineParser
from ..console.status import status_of
from ..environments import node
from ..environments.errors import Absent
from ..runtime.contract import MANIFEST_FILE
from ..runtime.errors import ContractError
from ..runtime.manifest import Manifest, read_manifest
from ..runtime.sizes import format_bytes
from ..runtime.untrusted.fields import shown
from .bounded_server import IDLE_S, BoundedServer, is_known_host

PAGE = Path(__file__).parents[1] / "examples" / "web"
PACKAGES = ("onnxruntime-web@1.30.0", "@huggingface/tokenizers@0.2.0")
VENDOR = (
    "onnxruntime-web/dist/ort.wasm.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "@huggingface/tokenizers/dist/tokenizers.min.mjs",
)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",  # browsers compile it while it arrives only with this type
}
_HEADERS = {
    # Threads need shared memory, which browsers allow only to pages isolated from other origins.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # the browser keeps files, and asks whether they changed
}


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl+C, which ends the command with status 0."""
    parser = OneLineParser(prog="python -m tramontane.deploy.web_server", description=__doc__)
    parser.add_argument("artifact", type=Path, help="folder written by tramontane export")
    parser.add_argument("--port", type=int, default=8080, help="0: any (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (%(default)s)")
    args = parser.parse_args(argv)
    manifest = read_manifest(args.artifact)
    server = open_server(routes(args.artifact, packages()), host=args.host, port=args.port)
    print(welcome(args.artifact, manifest, host=args.host, port=server.server_port), flush=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    print("\nstopped")
    return 0


def welcome(artifact: Path, manifest: Manifest, *, host: str, port: int) -> str:
    """What the command prints: what is served, where to open it, and how to stop it."""
    size = format_bytes(manifest.memory.weights_bytes)
    lines = [
        f"serving  {artifact}: {manifest.quant} for {manifest.target}, {size} of weights",
        f"open     http://{_in_url(host)}:{port}/",
        "stop     press Ctrl+C",
    ]
    if not _is_loopback(host):
        lines.append("note     browsers allow storage and threads only over https or at localhost")
    return "\n".join(lines)


def packages() -> Path:
    """The folder ``node_modules`` that holds what /vendor/ serves.

    Raises:
        ContractError: npm cannot install them here.
    """
    try:
        return node.node_with("web", PACKAGES) / "node_modules"
    except Absent as absent:
        raise ContractError(
            f"/vendor/: {absent}; the page needs {' and '.join(PACKAGES)} from npm"
        ) from absent


def routes(artifact: Path, node_modules: Path) -> dict[str, Path]:
    """The file that each served URL path names.

    Raises:
        ContractError: no artifact, one whose manifest names files outside it, a package without
            a file that the page needs, or no page, as when tramontane is installed from a wheel.
    """
    if not (PAGE / "index.html").is_file():
        raise ContractError(
            f"{PAGE}: no such page; it is part of the repository and not of the installed "
            "package: run from a checkout"
        )
    served = {f"/{path.name}": path for path in sorted(PAGE.iterdir()) if path.is_file()}
    served["/"] = served["/index.html"]
    for name in [MANIFEST_FILE, *read_manifest(artifact).files]:
        path = artifact / name
        if not path.resolve().is_relative_to(artifact.resolve()):
            raise ContractError(
                f"{artifact / MANIFEST_FILE}: it lists {name}, which is not in its folder; "
                "serve artifacts that you trust alone"
            )
        served[f"/artifact/{name}"] = path
    for name in VENDOR:
        if not (node_modules / name).is_file():
            raise ContractError(f"{node_modules / name}: missing; delete {node_modules.parent}")
        served[f"/vendor/{name}"] = node_modules / name
    return served


def open_server(served: Mapping[str, Path], *, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is listening; ``serve_forever`` answers requests.

    Raises:
        ContractError: it cannot listen at the address.
    """
    if not host:
        raise ContractError(
            "--host is empty, expected an address; give 127.0.0.1 for this machine alone, or "
            "0.0.0.0 for every network that it is in"
        )
    try:
        return BoundedServer((host, port), functools.partial(_Handler, served, host))
    except (TypeError, UnicodeError, socket.gaierror) as error:  # TypeError: NUL, half characters
        raise ContractError(
            f"--host {shown(host)}: no host has that name, expected an address of this machine; "
            "give 127.0.0.1 for this machine alone"
        ) from error
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "expected 0 to 65535"
        raise ContractError(
            f"--host {host} --port {port}: {why}; choose another port, or 0 for any"
        ) from error


class _Handler(SimpleHTTPRequestHandler):
    """Serves the files of a list; ``SimpleHTTPRequestHandler`` alone would serve whole folders."""

    protocol_version = "HTTP/1.1"
    extensions_map = _TYPES
    timeout = IDLE_S

    def __init__(self, served: Mapping[str, Path], host: str, *args: Any) -> None:
        self._served, self._host = served, host
        super().__init__(*args)

    def handle(self) -> None:
        """Answer the requests of one connection; the browser may close it at any time."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def send_head(self) -> Any:
        """Answer GET and HEAD; requests for another host, and for what is no URL, by an error."""
        if not is_known_host(self.headers.get("Host"), served_at=self._host):
            self.send_error(
                HTTPStatus.MISDIRECTED_REQUEST, "served to hosts of this machine alone"
            )
            return None
        try:
            return super().send_head()
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None

    def translate_path(self, path: str) -> str:
        """The file that a URL names; empty, which gives 404, for URLs outside the list.

        A folder gives 404 too: without this it would be listed.
        """
        file = self._served.get(unquote(urlsplit(path).path))
        return str(file) if file is not None and file.is_file() else ""

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing: the page shows what could not be loaded."""


def _in_url(host: str) -> str:
    """A host as URLs write it: IPv6 in brackets, and localhost for a server at all addresses."""
    if host in ("", "0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(status_of(main))
