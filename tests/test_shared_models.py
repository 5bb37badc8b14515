"""Do models that others trained speak through the driver as they do elsewhere?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.runtime import Sampler, Session
from tramontane.validate.run_gate import prove
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

pytestmark = pytest.mark.slow


def greedy(artifact: Path, steps: int) -> list[int]:
    session = Session.load(artifact)
    prompt = session.tokenizer.encode("")
    return list(session.generate(prompt, max_new_tokens=steps, sampler=Sampler()))


@torch.no_grad()
def transformers_greedy(folder: Path, *, window: int | None, steps: int) -> list[int]:
    """Greedy tokens by transformers, as a Mistral where a window is given."""
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
    ids = [1]
    for _ in range(steps):
        ids.append(
            int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        )
    return ids[1:]


@pytest.mark.parametrize("target", ["ort", "portable"])
def test_stories260k_tells_the_published_story(shared: Path, tmp_path: Path, target: str) -> None:
    model = shared / "models" / "stories260K"
    expected = (model / "expected_greedy_200.txt").read_text(encoding="utf-8")
    export_checkpoint(
        model, tmp_path / "a", ExportOptions(quant="fp32", target=target), gate=prove
    )
    session = Session.load(tmp_path / "a")
    text = "".join(session.stream("", max_new_tokens=250, sampler=Sampler()))
    assert text[: len(expected)] == expected


@pytest.mark.parametrize("target", ["ort", "portable"])
@pytest.mark.parametrize(
    ("name", "window", "steps"), [("stories260K", 64, 300), ("stories15M", 64, 200)]
)
def test_a_window_given_later_is_that_of_transformers(
    shared: Path, tmp_path: Path, target: str, name: str, window: int, steps: int
) -> None:
    model = shared / "models" / name
    export_checkpoint(
        model,
        tmp_path / "a",
        ExportOptions(quant="fp32", target=target, window=window),
        gate=prove,
    )
    expected = transformers_greedy(model, window=window, steps=steps)
    found = greedy(tmp_path / "a", steps)
    ends = read_config(model).eos_token_ids
    cut = next((i for i, token in enumerate(expected) if token in ends), len(expected))
    assert found == expected[:cut]
    assert cut > window  # the story goes on past the window's edge


def test_stories15m_without_a_window_is_that_of_transformers(shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / "stories15M"
    export_checkpoint(model, tmp_path / "a", ExportOptions(quant="fp32", target="ort"), gate=prove)
    expected = transformers_greedy(model, window=None, steps=200)
    cut = next((i for i, token in enumerate(expected) if token in (1, 2)), len(expected))
    assert greedy(tmp_path / "a", 200)[:cut] == expected[:cut]


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
    root = Path(__file__).parents[1]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(root.glob("runtime/*.py")))
    tokens = np.array(pieces.encode(text))
    counts = np.bincount(tokens, minlength=checkpoint.config.vocab_size) + 1.0
    unigram = float(np.exp(-np.log(counts / counts.sum())[tokens].mean()))
    tokens = tokens[:2048]
    logits = reference.runs([tokens])[0].logits
    assert compare(logits, logits, tokens).reference_perplexity * 5 < unigram
