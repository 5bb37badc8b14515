"""Do rules find unusual inputs and outputs, and bad configs, and no others?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from tramontane.graphs.lint.rules import lint

from .one_layer import GQA, MISTRAL, Ask, genai, say


@pytest.mark.parametrize("content", ["text", [1]], ids=str)
def test_config_that_is_no_object_is_told(ask: Ask, content: Any) -> None:
    say(ask("config-unreadable", config=content), "warning", "config.json", "expected an object")
    assert ask("config-unreadable", config=MISTRAL, genai=genai()) is None


@pytest.mark.parametrize("text", ["{", "[" * 100_000], ids=["cut", "deep"])
def test_config_that_is_no_json_is_told(ask: Ask, tmp_path: Path, text: str) -> None:
    assert ask("config-unreadable") is None
    (tmp_path / "genai_config.json").write_text(text)
    (finding,) = (f for f in lint(tmp_path / "model.onnx") if f.rule == "config-unreadable")
    words = "line 1 column 2" if text == "{" else "recursion"
    say(finding, "warning", "genai_config.json", words)


def test_config_above_the_folder_onnx_is_read(ask: Ask, tmp_path: Path) -> None:
    assert ask("window-lost", GQA, config=MISTRAL) is not None
    for folder in ("onnx", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
        rules = {finding.rule for finding in lint(tmp_path / folder / "model.onnx")}
        assert ("window-lost" in rules) == (folder == "onnx")


USUAL = 'logits = Add(q, q) "present.0.key" = Identity("past_key_values.0.key") }'
PRESENT = 'float[b,n,6] logits, float[b,2,24,16] "present.0.key"'


def test_usual_names_are_not_told(ask: Ask) -> None:
    assert ask("names-unusual", USUAL, outputs=PRESENT) is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("input_ids", "tokens", "no input_ids"),
        ("logits", "scores_of_words", "no logits"),
        ("past_key_values.0", "past_0", "no past_key_values.0.key"),
        ("present.0.key", "cache_out", "no present.0.key"),
    ],
)
def test_unusual_name_is_told(ask: Ask, old: str, new: str, words: str) -> None:
    def rename(model: ir.Model) -> None:
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.name = str(value.name).replace(old, new)

    say(ask("names-unusual", USUAL, outputs=PRESENT, change=rename), "warning", words)


def test_decoder_without_a_cache_is_told(ask: Ask) -> None:
    def forget(model: ir.Model) -> None:
        for value in list(model.graph.inputs):
            if value.shape is not None and len(value.shape) == 4:
                model.graph.inputs.remove(value)

    nodes = "logits = Add(q, q) }"
    say(ask("cache-absent", nodes, change=forget), "warning", "whole text again")
    assert ask("cache-absent", nodes) is None


def test_logits_of_every_token_are_told_with_their_size(ask: Ask) -> None:
    every = "float[b,T,32000] logits"
    nodes = "logits = Add(q, q) }"
    say(ask("logits-of-all", nodes, outputs=every), "warning", "(batch, T, 32000)", "128.00 MB")


def test_logits_of_the_tokens_asked_for_are_not(ask: Ask) -> None:
    def offer(model: ir.Model) -> None:
        model.graph.inputs[-1].name = "num_logits_to_keep"

    nodes = "logits = Add(q, q) }"
    assert ask("logits-of-all", nodes, outputs="float[b,n,32000] logits") is None
    assert ask("logits-of-all", nodes, outputs="float[b,1,32000] logits") is None
    every = "float[b,T,32000] logits"
    assert ask("logits-of-all", nodes, outputs=every, change=offer) is None
