"""Do the runners that need nothing installed do the whole job, and agree?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.environments import commands
from tramontane.interop.cases import Exported, write_job
from tramontane.interop.runners.python import driver, onnxruntime_alone
from tramontane.interop.web_page import text_of
from tramontane.runtime import Session, minimal_decode

NEW_TOKENS = 72  # more than a window, from a prompt of three


@pytest.fixture
def job(exported: Exported) -> dict[str, Any]:
    return {**exported.job, "new_tokens": NEW_TOKENS}


def test_the_driver_does_all_that_a_job_asks(exported: Exported, job: dict[str, Any]) -> None:
    found = driver.do(job)
    short, _ = job["prompts"]
    assert [len(tokens) for tokens in found["tokens"]] == [NEW_TOKENS] * 2
    assert found["texts"] == [text_of(exported, short, found["tokens"][0])]
    assert found["ids"][0] == [exported.manifest.vocabulary.bos_token_id]  # of an empty string
    assert len(found["ids"]) == len(found["decoded"]) == len(job["strings"])
    assert {"tramontane", "onnxruntime", "numpy", "python"} <= set(found["versions"])


def test_the_drivers_logits_are_those_of_the_score_from_an_empty_cache(
    exported: Exported, job: dict[str, Any]
) -> None:
    driver.do(job)
    session = Session.load(exported.folder)
    right = session.prefill(job["score"], all_logits=True, chunk=len(job["score"]))
    found = np.fromfile(job["logits"], "<f4").reshape(right.shape)
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("missing", ["score", "logits"])
def test_the_driver_scores_when_asked_alone(job: dict[str, Any], missing: str) -> None:
    path = Path(job["logits"])
    driver.do({**job, missing: None, "prompts": [], "texts": [], "strings": []})
    assert not path.exists()


def test_greedy_decoding_goes_past_end_tokens(exported: Exported) -> None:
    class Ending:
        """Whose likeliest token always ends."""

        def reset(self) -> None:
            self.steps = 0

        def prefill(self, tokens: list[int], *, chunk: int) -> np.ndarray:
            assert chunk == len(tokens)
            return np.eye(1, 8, 2)[0]

        def step(self, token: int) -> np.ndarray:
            return np.eye(1, 8, token)[0]

    assert driver.continue_greedily(Ending(), [1, 5], 3) == [2, 2, 2]  # type: ignore[arg-type]


@pytest.mark.slow
def test_onnxruntime_alone_gives_the_drivers_tokens_across_the_window(
    exported: Exported, job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_job(exported, tmp_path / "job.json", new_tokens=NEW_TOKENS)
    assert onnxruntime_alone.main([str(path), str(minimal_decode.__file__)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == driver.do(job)["tokens"]
    assert set(found["versions"]) == {"onnxruntime", "numpy", "python"}


def test_the_script_of_the_docs_prints_the_tokens_that_follow(exported: Exported) -> None:
    _, long = exported.job["prompts"]
    right = driver.continue_greedily(Session.load(exported.folder), long, 5)
    command = [sys.executable, minimal_decode.__file__, exported.folder, "5", *map(str, long)]
    assert commands.run(command).split() == [str(token) for token in right]
