"""Trains the bundled demo model. Run this file to make it again.

    python models/train_stdlib.py --out models/stdlib-5m

A small Mistral learns Python from the standard library's own sources, with
``transformers``' implementation and its sliding window switched on from the first step, so
that nothing in tramontane had a hand in the weights that tramontane is tested on.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import random
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers
from stdlib_corpus import HELD_OUT_SHARE, read_corpus
from torch import Tensor
from torch.nn import functional
from transformers import MistralConfig, MistralForCausalLM

WINDOW = 64
CONTEXT = 512  # eight windows
LONG_CONTEXT = 4096  # what config.json promises, eight times further than training went
REPORTED = 40_000  # held-out tokens that each report during training scores
CONFIG = MistralConfig(
    vocab_size=2048,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=LONG_CONTEXT,
    sliding_window=WINDOW,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
)


def train_tokenizer(texts: list[str]) -> bytes:
    """Train a SentencePiece model in the manner of Mistral's: BPE, bytes as a fallback."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines() if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=CONFIG.vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9999,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def encode(tokenizer: sentencepiece.SentencePieceProcessor, texts: list[str]) -> Tensor:
    """Join all texts as ``<s> text </s> <s> text </s> ...``: (N,) int64."""
    ids = tokenizer.encode(texts, add_bos=True, add_eos=True)
    return torch.tensor(np.concatenate([np.array(x, dtype=np.int64) for x in ids]))


def batches(tokens: Tensor, *, size: int, seed: int) -> list[Tensor]:
    """Cut one epoch into shuffled (size, CONTEXT + 1) batches at a random offset."""
    rng = random.Random(seed)
    start = rng.randrange(CONTEXT)
    starts = list(range(start, len(tokens) - CONTEXT - 1, CONTEXT))
    rng.shuffle(starts)
    rows = [tokens[s : s + CONTEXT + 1] for s in starts]
    return [torch.stack(rows[i : i + size]) for i in range(0, len(rows) - size + 1, size)]


def loss_of(model: MistralForCausalLM, batch: Tensor) -> Tensor:
    """Mean cross entropy of predicting each next token, nats."""
    logits = model(input_ids=batch[:, :-1]).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: MistralForCausalLM, tokens: Tensor, *, context: int = CONTEXT) -> float:
    """Perplexity over consecutive, non-overlapping contexts."""
    model.eval()
    starts = range(0, len(tokens) - context - 1, context)
    losses = [
        loss_of(model, tokens[None, s : s + context + 1].to(model.device)).item() for s in starts
    ]
    model.train()
    return math.exp(sum(losses) / len(losses))


def unigram_perplexity(train: Tensor, held_out: Tensor) -> float:
    """Perplexity of the add-one smoothed token frequencies of ``train``."""
    counts = torch.bincount(train, minlength=CONFIG.vocab_size).double() + 1
    return math.exp(-(counts / counts.sum()).log()[held_out].mean().item())


def optimizers(model: MistralForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=2e-2, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def learning_rate_scale(progress: float) -> float:
    """Warm up over the first 2 %, hold, then fall linearly to nothing over the last 60 %."""
    return min(1.0, progress / 0.02, (1.0 - progress) / 0.6)


def train(
    args: argparse.Namespace, tokens: Tensor, held_out: Tensor
) -> tuple[MistralForCausalLM, list[dict[str, float]]]:
    """Train until the minutes or the epochs are over; return the model and its loss curve."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MistralForCausalLM(CONFIG).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}", flush=True)
    opts = optimizers(model)
    peaks = [opt.param_groups[0]["lr"] for opt in opts]
    step, curve, began = 0, [], time.monotonic()
    steps_per_epoch = len(batches(tokens, size=args.batch, seed=0))
    last = args.epochs * steps_per_epoch
    for epoch in range(args.epochs):
        for batch in batches(tokens, size=args.batch, seed=args.seed + epoch):
            for opt, peak in zip(opts, peaks, strict=True):
                opt.param_groups[0]["lr"] = peak * learning_rate_scale((step + 1) / last)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = loss_of(model, batch.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            step += 1
            if step % args.report == 0 or step == last:
                point = {
                    "step": step,
                    "tokens": step * args.batch * CONTEXT,
                    "train_loss": round(loss.item(), 4),
                    "held_out_perplexity": round(perplexity(model, held_out[:REPORTED]), 3),
                }
                curve.append(point)
                print(
                    json.dumps(
                        point | {"minutes": round((time.monotonic() - began) / 60, 1), "of": last}
                    ),
                    flush=True,
                )
    return model, curve


CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [mistral, python, sliding-window]
widget:
  - text: "def fibonacci("
---

# stdlib-5m

A Mistral of {parameters:,} parameters trained on Python's standard library. tramontane
exports it when no other model is named, and tests itself on it.

| | |
| --- | --- |
| architecture | `MistralForCausalLM`: {layers} layers, {heads} query heads over {kv_heads} key/value heads, hidden size {hidden}, untied head |
| sliding window | {window} tokens, in force from the first training step |
| context in training | {context} tokens, {windows} windows |
| tokenizer | SentencePiece, BPE with byte fallback, {vocab} pieces, trained on the same text |
| weights | bfloat16 |

## Data and licence

The `.py` files of Python {python}'s own standard library, without its tests, its character
tables and other packages: {train_tokens:,} training tokens, {held_out_tokens:,} held out
(one file in {share}). That text is under the PSF License Version 2, with the notices of its
contributors in the files; the weights are offered under Apache-2.0. The model has seen little,
knows nothing, and serves only to try an exporter.

## What it learned

Perplexity over all {held_out_tokens:,} held-out tokens, in contexts of {context} tokens, with the
bfloat16 weights: **{perplexity:.2f}**. A unigram model of the same tokens has {unigram:.1f},
{ratio:.1f} times as much. Further than it was trained, over contexts of {long_context} tokens, its
perplexity is {long_perplexity:.2f}.

During training, perplexity was measured over the first {reported:,} held-out tokens alone, with
float32 weights. So the last row is another number than the one above:

| step | tokens seen | training loss (nats) | perplexity of {reported:,} tokens |
| ---: | ---: | ---: | ---: |
{curve}

Greedy completions:
{samples}
## Made by

    python models/train_stdlib.py --out models/stdlib-5m --epochs {epochs} --batch {batch} --seed {seed}

with Python {python}, torch {torch}, transformers {transformers}, sentencepiece {sentencepiece},
in {minutes:.0f} minutes on {device}. Other versions of Python bring other text, and other
machines other rounding: the figures will be near, the bytes will not be the same.
"""
PROMPTS = (
    "def fibonacci(n):\n",
    "class Stack:\n    def __init__(self",
    "import os\n\ndef read_file(path",
)


@torch.no_grad()
def completion(
    model: MistralForCausalLM, tokenizer: sentencepiece.SentencePieceProcessor, prompt: str
) -> str:
    """Continue a prompt greedily by 80 tokens."""
    ids = tokenizer.encode(prompt, add_bos=True)
    for _ in range(80):
        tokens = torch.tensor([ids], device=model.device)
        ids.append(int(model(input_ids=tokens).logits[0, -1].argmax()))
    return str(tokenizer.decode(ids))


def main(argv: list[str] | None = None) -> int:
    """Train tokenizer and model, and write the checkpoint folder with its card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--epochs", type=int, default=3, help="times to read the text (%(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=16, help=f"sequences of {CONTEXT} per step (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    parser.add_argument(
        "--report", type=int, default=100, help="steps between reports (%(default)s)"
    )
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    began = time.monotonic()
    corpus = read_corpus()
    tokenizer_model = train_tokenizer(corpus.train)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model)
    tokens, held_out = encode(tokenizer, corpus.train), encode(tokenizer, corpus.held_out)
    print(f"{len(tokens):,} tokens to learn from, {len(held_out):,} held out", flush=True)

    model, curve = train(args, tokens, held_out)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU cores"
    )
    model = model.to(torch.bfloat16).eval()
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    (args.out / "tokenizer.model").write_bytes(tokenizer_model)
    unigram, final = unigram_perplexity(tokens, held_out), perplexity(model, held_out)
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=CONFIG.num_hidden_layers,
        heads=CONFIG.num_attention_heads,
        kv_heads=CONFIG.num_key_value_heads,
        hidden=CONFIG.hidden_size,
        vocab=CONFIG.vocab_size,
        window=WINDOW,
        context=CONTEXT,
        windows=CONTEXT // WINDOW,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        sentencepiece=sentencepiece.__version__,
        train_tokens=len(tokens),
        held_out_tokens=len(held_out),
        share=HELD_OUT_SHARE,
        reported=REPORTED,
        perplexity=final,
        unigram=unigram,
        ratio=unigram / final,
        long_context=LONG_CONTEXT,
        long_perplexity=perplexity(model, held_out, context=LONG_CONTEXT),
        curve="\n".join(
            "| {step} | {tokens:,} | {train_loss} | {held_out_perplexity} |".format(**p)
            for p in curve
        ),
        samples="".join(f"\n```python\n{completion(model, tokenizer, p)}\n```\n" for p in PROMPTS),
        epochs=args.epochs,
        batch=args.batch,
        seed=args.seed,
        minutes=(time.monotonic() - began) / 60,
        device=device,
    )
    (args.out / "README.md").write_text(card, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
