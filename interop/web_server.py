"""Serve the page of ``examples/web`` with an artifact.

The page is at /, the artifact at /artifact/, and the few files of npm packages that the page needs
at /vendor/. The list of served paths is made at the start; every other path gives 404.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import ipaddress
import mimetypes
import sys
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfileobj
from urllib.parse import unquote, urlsplit

from ..console.status import status_of
from ..environments import node
from ..environments.errors import Absent
from ..runtime.contract import MANIFEST_FILE
from ..runtime.errors import ContractError
from ..runtime.manifest import Manifest, read_manifest
from ..runtime.sizes import format_bytes

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
    ".wasm": "application/wasm",  # or it cannot be compiled while it arrives
}
_HEADERS = {
    # Threads share memory, which browsers allow to pages that are isolated from other origins.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # kept by the browser, asked for again with its date
}


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl+C, which ends the command with status 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tramontane.interop.web_server", description=__doc__
    )
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
    """What is served, where to open it, and how to stop it."""
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
    """Every path that has an answer, and the file that is it.

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
    """A server that listens already; ``serve_forever`` answers.

    Raises:
        ContractError: the address cannot be had.
    """
    try:
        return ThreadingHTTPServer((host, port), functools.partial(_Handler, served))
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "expected 0 to 65535"
        raise ContractError(
            f"--host {host} --port {port}: {why}; choose another port, or 0 for any"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, served: Mapping[str, Path], *args: object) -> None:
        self._served = served
        super().__init__(*args)  # type: ignore[arg-type]

    def handle(self) -> None:
        """Answer the requests of one connection; the browser may close it at any time."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: refusals reach the page, which shows them."""

    def _answer(self, *, has_body: bool) -> None:
        path = self._served.get(unquote(urlsplit(self.path).path))
        try:
            file = path.open("rb") if path else None
        except OSError:  # listed by the manifest, and not there: the page names it
            file = None
        if path is None or file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            found = path.stat()
            if self._is_known(found.st_mtime):
                self.send_response(HTTPStatus.NOT_MODIFIED)
                self.end_headers()
                return
            guess = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", _TYPES.get(path.suffix, guess))
            self.send_header("Content-Length", str(found.st_size))
            self.send_header("Last-Modified", formatdate(found.st_mtime, usegmt=True))
            self.end_headers()
            if has_body:
                try:
                    copyfileobj(file, self.wfile)
                except ConnectionError:  # the reader has left
                    self.close_connection = True

    def _is_known(self, modified: float) -> bool:
        since = self.headers.get("If-Modified-Since")
        try:
            return since is not None and int(modified) <= parsedate_to_datetime(since).timestamp()
        except ValueError:
            return False


def _in_url(host: str) -> str:
    """A host as URLs have it: an IPv6 address in brackets; any address is reached at localhost."""
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
