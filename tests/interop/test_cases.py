"""Is what is asked of every runtime enough to tell one from another?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.interop import cases
from tramontane.interop.cases import Exported
from tramontane.runtime.errors import ContractError


def test_stories_are_a_model_and_its_text(tmp_path: Path, stdlib_5m: Path) -> None:
    *_, case = cases.cases(stdlib_5m, tmp_path)
    assert cases.stories_in(tmp_path) == (case.checkpoint, case.text)


def test_every_case_has_a_name_of_its_own_and_the_stories_come_with_the_shared_folder(
    stdlib_5m: Path, tmp_path: Path
) -> None:
    embedded = [case.name for case in cases.cases(stdlib_5m, None)]
    everything = [case.name for case in cases.cases(stdlib_5m, tmp_path)]
    assert len(set(everything)) == len(everything)
    assert everything[: len(embedded)] == embedded
    assert everything[len(embedded) :] == [
        "stories15M fp32 ort, window 32",
        "stories15M fp32 ort, no window",
        "stories15M fp32 ort, windows by layer",
        "stories15M fp32 ort, as Ministral 3",
    ]


def test_a_job_crosses_the_window_in_its_prompt_and_in_what_follows(exported: Exported) -> None:
    window = exported.manifest.geometry.windows[0]
    assert window is not None
    short, long = exported.job["prompts"]
    assert len(short) < window
    assert len(long) == 3 * window
    assert exported.job["new_tokens"] > 2 * window
    assert exported.job["strings"] == list(PROBE_TEXTS)


def test_a_job_of_one_runtime_differs_by_what_is_changed(
    exported: Exported, tmp_path: Path
) -> None:
    path = cases.write_job(exported, tmp_path / "job.json", logits=None, checkpoint="folder")
    assert json.loads(path.read_text()) == {
        **exported.job,
        "logits": None,
        "checkpoint": "folder",
    }


def test_logits_are_read_once_so_that_no_runtime_is_taken_for_another(
    exported: Exported,
) -> None:
    V = exported.manifest.geometry.vocab_size
    logits = np.arange(len(exported.job["score"]) * V, dtype="<f4").reshape(-1, V)
    logits.tofile(exported.job["logits"])
    np.testing.assert_array_equal(cases.read_logits(exported), logits)
    assert cases.read_logits(exported).shape == (0, V)


@pytest.mark.parametrize("positions", [0, 2])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_of_logits_cut_short_whole_positions_alone_are_read(
    exported: Exported, positions: int, share: float
) -> None:
    V = exported.manifest.geometry.vocab_size
    np.arange(int((positions + share) * V), dtype="<f4").tofile(exported.job["logits"])
    found = cases.read_logits(exported)
    np.testing.assert_array_equal(found, np.arange(positions * V).reshape(positions, V))


def test_a_prompt_that_leads_to_an_end_token_is_refused_by_its_number(
    exported: Exported,
) -> None:
    (end,) = exported.manifest.vocabulary.eos_token_ids
    cases.refuse_end_tokens(exported, [[5, 6, 7], [8, 9, 10]])
    with pytest.raises(
        ContractError,
        match=r"fp32 ort: prompt 1 leads to an end token after 2 tokens, expected none in 3; ch",
    ):
        cases.refuse_end_tokens(exported, [[5, 6, 7], [8, 9, end]])
    vocabulary = replace(exported.manifest.vocabulary, eos_token_ids=(end, 6))
    other = replace(exported, manifest=replace(exported.manifest, vocabulary=vocabulary))
    with pytest.raises(ContractError, match="prompt 0 leads to an end token after 1 token,"):
        cases.refuse_end_tokens(other, [[5, 6, 7], [8, 9, 10]])
