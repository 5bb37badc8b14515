"""Tests the page of examples/web in a real browser."""

from __future__ import annotations

import threading
from pathlib import Path

from ..deploy import web_server
from ..environments import browser, commands, node
from ..environments.errors import Absent
from ..runtime.loading.open_tokenizer import open_tokenizer
from ..runtime.tokenizers.detokenizer import Detokenizer
from .cases import Exported, write_job
from .judge import Answer, Failed

_RUNNER = Path(__file__).with_name("runners") / "web_page" / "claims.mjs"


def visit(
    exported: Exported, expected: str, *, screenshots: Path | None, is_brief: bool
) -> Answer:
    """Serve an artifact with the page, and open it in a browser.

    Args:
        exported: the artifact.
        expected: the answer to the first prompt.
        screenshots: folder for pictures.
        is_brief: whether to test only loading, answering, and answering offline.

    Raises:
        Absent: no browser, or no packages.
        Failed: a claim about the page does not hold; the message names it.
    """
    job = {
        "chromium": str(browser.find()),
        "puppeteer": str(browser.tools()),
        "prompt": exported.case.prompt,
        "expected": expected,
        "screenshots": None if screenshots is None else str(screenshots.resolve()),
        "brief": is_brief,
    }
    modules = node.node_with("web", web_server.PACKAGES) / "node_modules"
    served = web_server.routes(exported.folder, modules)
    with web_server.open_server(served, host="127.0.0.1", port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = exported.folder.with_suffix(".page.json")
        write_job(exported, path, url=f"http://127.0.0.1:{server.server_port}/", **job)
        try:
            answer = commands.answer(["node", _RUNNER, path])
        except Absent as failure:
            raise Failed(str(failure)) from failure
        finally:
            path.unlink()
            server.shutdown()
    return answer


def text_of(exported: Exported, prompt: list[int], tokens: list[int]) -> str:
    """Text that tokens add to a prompt."""
    detokenizer = Detokenizer(open_tokenizer(exported.folder, exported.manifest), prompt)
    return "".join([*map(detokenizer.push, tokens), detokenizer.flush()])
