"""Tests of the web server: it serves what the page needs and nothing else."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from tramontane.deploy import bounded_server, web_server
from tramontane.environments import node
from tramontane.environments.errors import Absent
from tramontane.runtime import manifest as manifests
from tramontane.runtime.errors import ContractError

from .small_artifact import write_artifact


@pytest.fixture
def node_modules(tmp_path: Path) -> Path:
    folder = tmp_path / "node_modules"
    for name in web_server.VENDOR:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"module")
    return folder


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "artifact", files=["onnx/model.onnx_data"])


@pytest.fixture
def server(artifact: Path, node_modules: Path) -> Iterator[ThreadingHTTPServer]:
    served = web_server.routes(artifact, node_modules)
    with web_server.open_server(served, host="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_page_artifact_and_packages_are_served_isolated_and_typed(
    server: ThreadingHTTPServer,
) -> None:
    for path, kind in {
        "/": "text/html; charset=utf-8",
        "/worker.js": "text/javascript; charset=utf-8",
        "/artifact/onnx/model.onnx_data": "application/octet-stream",
        "/vendor/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": "application/wasm",
        "/vendor/onnxruntime-web/dist/ort.wasm.min.mjs": "text/javascript; charset=utf-8",
    }.items():
        answer = _get(server, path)
        assert answer.status == 200, path
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_file_that_the_browser_has_is_not_sent_again(server: ThreadingHTTPServer) -> None:
    modified = _get(server, "/style.css").headers["Last-Modified"]
    assert _get(server, "/style.css", {"If-Modified-Since": modified}).status == 304
    assert _get(server, "/style.css", {"If-Modified-Since": "yesterday"}).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/artifact/../../errors.py",
        "/artifact/..%2f..%2ferrors.py",
        "/artifact/notes.txt",
        "/vendor/onnxruntime-web/package.json",
        "/artifact/",
    ],
)
def test_other_paths_have_no_answer(
    path: str, artifact: Path, server: ThreadingHTTPServer
) -> None:
    (artifact / "notes.txt").write_text("private", encoding="utf-8")
    assert _get(server, path).status == 404


def test_a_file_that_is_promised_and_missing_has_no_answer(
    artifact: Path, server: ThreadingHTTPServer
) -> None:
    (artifact / "onnx/model.onnx_data").unlink()
    assert _get(server, "/artifact/onnx/model.onnx_data").status == 404


def test_a_folder_that_the_manifest_lists_as_a_file_is_not_listed(
    artifact: Path, server: ThreadingHTTPServer
) -> None:
    (artifact / "onnx/model.onnx_data").unlink()
    (artifact / "onnx/model.onnx_data").mkdir()
    assert _get(server, "/artifact/onnx/model.onnx_data").status == 404
    assert _get(server, "/artifact/onnx/model.onnx_data/").status == 404


def test_a_head_request_has_the_headers_and_no_body(server: ThreadingHTTPServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    for method, content in (("HEAD", b""), ("GET", b"weights")):
        connection.request(method, "/artifact/onnx/model.onnx_data")
        answer = connection.getresponse()
        assert answer.headers["Content-Length"] == "7"
        assert answer.read() == content
    connection.close()


def test_a_browser_that_resets_its_connection_leaves_no_traceback(
    server: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for request in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        client = socket.create_connection(("127.0.0.1", server.server_port))
        client.sendall(request)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with RST, as a browser does that is closed
    time.sleep(0.3)
    assert _get(server, "/").status == 200
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("host", "url", "has_note"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080/", False),
        ("localhost", "http://localhost:8080/", False),
        ("::1", "http://[::1]:8080/", False),
        ("0.0.0.0", "http://localhost:8080/", True),
        ("192.0.2.7", "http://192.0.2.7:8080/", True),
    ],
)
def test_the_command_says_what_it_serves_where_and_how_to_stop_it(
    artifact: Path, host: str, url: str, has_note: bool
) -> None:
    manifest = manifests.read_manifest(artifact)
    lines = web_server.welcome(artifact, manifest, host=host, port=8080).splitlines()
    assert lines[0] == f"serving  {artifact}: fp32 for ort, 900 B of weights"
    assert lines[1].split() == ["open", url]
    assert lines[2] == "stop     press Ctrl+C"
    assert len(lines) == 3 + has_note


def test_ctrl_c_is_how_the_command_ends(
    artifact: Path,
    node_modules: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(_: ThreadingHTTPServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
    monkeypatch.setattr(web_server, "packages", lambda: node_modules)
    assert web_server.main([str(artifact), "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"open     http://127\.0\.0\.1:\d+/\n", out)
    assert out.endswith("\nstopped\n")


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path, node_modules: Path) -> None:
    with pytest.raises(ContractError, match=r"not an artifact, it holds no manifest\.json"):
        web_server.routes(tmp_path, node_modules)


def test_a_manifest_that_names_files_outside_is_refused(
    tmp_path: Path, node_modules: Path
) -> None:
    folder = write_artifact(tmp_path / "other", files=["../secret"])
    with pytest.raises(ContractError, match=r"files names '\.\./secret'"):
        web_server.routes(folder, node_modules)


def test_a_package_without_its_file_is_refused(artifact: Path, node_modules: Path) -> None:
    (node_modules / web_server.VENDOR[0]).unlink()
    with pytest.raises(ContractError, match=r"ort\.wasm\.min\.mjs: missing; delete "):
        web_server.routes(artifact, node_modules)


def test_an_installed_package_has_no_page(
    artifact: Path, node_modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "PAGE", tmp_path / "examples/web")
    with pytest.raises(ContractError, match="part of the repository and not of the installed"):
        web_server.routes(artifact, node_modules)


def test_a_port_in_use_is_refused_by_name(server: ThreadingHTTPServer) -> None:
    port = server.server_port
    with pytest.raises(ContractError, match=rf"--port {port}: Address already in use; choose"):
        web_server.open_server({}, host="127.0.0.1", port=port)


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ContractError, match="--port 81230: expected 0 to 65535"):
        web_server.open_server({}, host="127.0.0.1", port=81230)


def test_without_npm_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, packages: object) -> Path:
        raise Absent("npm: not on PATH")

    monkeypatch.setattr(node, "node_with", absent)
    with pytest.raises(ContractError, match=r"npm: not on PATH; the page needs onnxruntime-web@"):
        web_server.packages()


def test_page_and_package_agree_on_facts_that_both_write() -> None:
    page = web_server.PAGE
    version = re.search(r"SCHEMA_VERSION = (\d+)", (page / "artifact.js").read_text("utf-8"))
    assert version is not None
    assert int(version[1]) == manifests.SCHEMA_VERSION
    kept = (page / "service-worker.js").read_text("utf-8")
    for name in web_server.VENDOR:
        assert f'"vendor/{name}"' in kept
    for path in page.glob("*.js"):
        assert path.name == "service-worker.js" or f'"{path.name}"' in kept


def _get(
    server: ThreadingHTTPServer, path: str, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 421),
        (b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://[/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /style.css HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
        (b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
        (b"non sense HTTP/1.1 x\r\n\r\n", 400),
    ],
)
def test_every_request_has_an_answer(
    server: ThreadingHTTPServer, request_: bytes, status: int
) -> None:
    with socket.create_connection(server.server_address[:2], timeout=5) as client:
        client.sendall(request_)
        assert str(status).encode() in client.recv(4096)


def test_slow_clients_hold_neither_threads_nor_the_server(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server._Handler, "timeout", 3)
    before = threading.active_count()
    slow = [
        socket.create_connection(server.server_address[:2], timeout=5)
        for _ in range(bounded_server.MOST_CONNECTIONS + 20)
    ]
    try:
        assert slow[-1].recv(99).startswith(b"HTTP/1.1 503 ")
        assert threading.active_count() - before <= bounded_server.MOST_CONNECTIONS
        assert slow[0].recv(99) == b""  # closed after it was idle
    finally:
        for client in slow:
            client.close()
    for _ in range(50):
        if threading.active_count() == before:
            break
        time.sleep(0.1)
    assert _get(server, "/").status == 200


@pytest.mark.parametrize(
    "host", ["", " ", "a" * 300, "\u0130", "a\0b", "\ud800", "\n", "127.0.0.1:80", "[::1]"]
)
def test_a_host_that_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(ContractError, match="--host.*, expected an address") as refused:
        web_server.open_server({}, host=host, port=0)
    assert len(str(refused.value)) < 300


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_an_ipv6_address_is_served() -> None:
    with web_server.open_server({}, host="::1", port=0) as server:
        assert server.server_address[0] == "::1"
