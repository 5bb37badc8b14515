"""Is what the page is asked for made as the driver makes it, and is a missing browser named?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tramontane.deploy import web_server
from tramontane.environments import browser, commands, node
from tramontane.environments.errors import Absent
from tramontane.interop import web_page
from tramontane.interop.cases import Exported
from tramontane.interop.judge import Failed
from tramontane.runtime import Session


def test_the_expected_text_is_what_tokens_add_to_their_prompt(exported: Exported) -> None:
    tokenizer = Session.load(exported.folder).tokenizer
    prompt = tokenizer.encode("def area(width,")
    tokens = tokenizer.encode("height):\n    return width", is_first=False)
    whole = tokenizer.decode([*prompt, *tokens])
    assert whole.endswith("height):\n    return width")
    assert web_page.text_of(exported, prompt, tokens) == whole[len(tokenizer.decode(prompt)) :]
    assert web_page.text_of(exported, prompt, []) == ""


def test_a_space_that_leads_the_tokens_is_kept_after_a_prompt(exported: Exported) -> None:
    tokenizer = Session.load(exported.folder).tokenizer
    (space,) = tokenizer.encode("x return", is_first=False)[1:]
    assert web_page.text_of(exported, tokenizer.encode("x"), [space]) == " return"


def test_half_of_a_character_is_shown_as_lost_not_left_out(exported: Exported) -> None:
    tokenizer = Session.load(exported.folder).tokenizer
    half = tokenizer.encode("x🤗")[:-2]
    assert web_page.text_of(exported, half[:2], half[2:]).endswith("\ufffd")


def test_without_a_browser_the_page_is_absent(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser.shutil, "which", lambda _: None)
    with pytest.raises(
        Absent, match=r"^chromium, chromium-browser, google-chrome: none is on PATH$"
    ):
        web_page.visit(exported, "x", screenshots=None, is_brief=True)


@pytest.fixture
def served(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> Exported:
    """Without browser and packages: the server has nothing to serve."""

    def install(name: str, packages: Sequence[str]) -> Path:
        assert (name, packages) == ("web", web_server.PACKAGES)
        return Path("web")

    def serve(artifact: Path, modules: Path) -> dict[str, Path]:
        assert (artifact, modules) == (exported.folder, Path("web", "node_modules"))
        return {}

    monkeypatch.setattr(browser, "find", lambda: Path("/usr/bin/chromium"))
    monkeypatch.setattr(browser, "tools", lambda: Path("tools"))
    monkeypatch.setattr(node, "node_with", install)
    monkeypatch.setattr(web_server, "routes", serve)
    return exported


def test_without_packages_the_page_is_absent_and_does_not_fail(
    served: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(*_: object) -> Path:
        raise Absent("npm: not on PATH")

    monkeypatch.setattr(node, "node_with", install)
    with pytest.raises(Absent, match=r"^npm: not on PATH$"):
        web_page.visit(served, "x", screenshots=None, is_brief=True)


def test_a_claim_that_does_not_hold_fails_and_is_not_absent(
    served: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: object, **_: object) -> str:
        raise Absent("node claims.mjs: exit status 1; FAILS  the text is our driver's")

    monkeypatch.setattr(commands, "run", run)
    with pytest.raises(Failed, match="FAILS  the text is our driver's"):
        web_page.visit(served, "x", screenshots=None, is_brief=True)
    assert not list(served.folder.parent.glob("*.json"))


def test_the_page_is_asked_for_the_cases_prompt_and_text(
    served: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job: dict[str, Any] = {}

    def run(command: list[Any], **_: object) -> str:
        job.update(json.loads(Path(command[-1]).read_text()))
        return 'noise\n{"claims": {"it answers": true}, "versions": {}}\n'

    monkeypatch.setattr(commands, "run", run)
    answer = web_page.visit(served, "expected text", screenshots=tmp_path, is_brief=False)
    assert answer["claims"] == {"it answers": True}
    wanted = {
        "prompt": served.case.prompt,
        "expected": "expected text",
        "screenshots": str(tmp_path),
        "brief": False,
        "new_tokens": served.job["new_tokens"],
    }
    assert {name: job[name] for name in wanted} == wanted
