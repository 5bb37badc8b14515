"""Do models that others trained speak through the driver as they do elsewhere?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tramontane.export.build import Gate, export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.runtime import Sampler, Session
from tramontane.validate.run_gate import require_parity
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

pytestmark = pytest.mark.slow


def greedy(artifact: Path, steps: int) -> list[int]:
    session = Session.load(artifact)
    prompt = session.tokenizer.encode("")
    return session.generate(prompt, max_new_tokens=steps, sampler=Sampler()).finish().tokens


@torch.no_grad()
def likeliest(folder: Path, tokens: list[int], *, window: int | None) -> list[int]:
    """What transformers makes likeliest after the start token and each token, in one pass.

    Where that is each next token, they are its greedy continuation. A window makes a Mistral of it.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if window is not None:
        fields = model.config.to_dict()
        kept = {
            k: v
            for k, v in fields.items()
            if k not in ("model_type", "architectures", "_name_or_path")
        }
        config = MistralConfig(**{**kept, "sliding_window": window})
        mistral = MistralForCausalLM(config)
        mistral.load_state_dict(model.state_dict())
        model = mistral
    model.eval()
    logits = model(input_ids=torch.tensor([[1, *tokens]]), use_cache=False).logits[0]
    return [int(token) for token in logits.argmax(dim=-1)]


@pytest.mark.parametrize("target", ["ort", "portable"])
def test_stories260k_tells_the_published_story(shared: Path, tmp_path: Path, target: str) -> None:
    model = shared / "models" / "stories260K"
    expected = (model / "expected_greedy_200.txt").read_text(encoding="utf-8")
    export_checkpoint(
        model, tmp_path / "a", ExportOptions(quant="fp32", target=target), gate=require_parity
    )
    session = Session.load(tmp_path / "a")
    text = "".join(session.generate("", max_new_tokens=250, sampler=Sampler()))
    assert text[: len(expected)] == expected


@pytest.mark.parametrize(
    ("name", "target", "steps", "gate"),
    [
        ("stories260K", "ort", 300, require_parity),
        ("stories260K", "portable", 300, require_parity),
        ("stories15M", "ort", 200, require_parity),
        ("stories15M", "portable", 200, None),  # the gate takes as long for each token again
    ],
)
def test_a_window_given_later_is_that_of_transformers(
    shared: Path, tmp_path: Path, name: str, target: str, steps: int, gate: Gate | None
) -> None:
    model, window = shared / "models" / name, 64
    recipe = ExportOptions(quant="fp32", target=target, window=window)
    export_checkpoint(model, tmp_path / "a", recipe, gate=gate)
    found = greedy(tmp_path / "a", steps)
    *expected, after = likeliest(model, found, window=window)
    assert found == expected
    assert len(found) == steps or after in read_config(model).eos_token_ids
    assert len(found) > window  # the story goes on past the window's edge


def test_stories15m_without_a_window_is_that_of_transformers(shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / "stories15M"
    export_checkpoint(model, tmp_path / "a", ExportOptions(quant="fp32", target="ort"))
    found = greedy(tmp_path / "a", 200)
    *expected, after = likeliest(model, found, window=None)
    assert found == expected
    assert len(found) == 200 or after in read_config(model).eos_token_ids


def test_the_embedded_model_learned_more_than_frequencies(stdlib_5m: Path, tmp_path: Path) -> None:
    """Perplexity on this project's own source, which it never saw, against a unigram model."""
    import numpy as np
    import sentencepiece
    from tramontane.console.progress import track
    from tramontane.validate.figures import compare
    from tramontane.validate.reference.reference import Reference
    from tramontane.validate.reference.reference_cache import Store

    checkpoint = Checkpoint.open(stdlib_5m)
    store = Store(tmp_path)
    reference = Reference(checkpoint.config, checkpoint, store=store, track=track)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(stdlib_5m / "tokenizer.model"))
    root = Path(__file__).parents[2]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(root.glob("runtime/*.py")))
    tokens = np.array(pieces.encode(text))
    counts = np.bincount(tokens, minlength=checkpoint.config.vocab_size) + 1.0
    unigram = float(np.exp(-np.log(counts / counts.sum())[tokens].mean()))
    tokens = tokens[:2048]
    logits = reference.runs([tokens])[0].logits
    assert compare(logits, logits, tokens).reference_perplexity * 5 < unigram
