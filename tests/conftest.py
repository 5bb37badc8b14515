"""Which checkpoints do the tests run on?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Models and corpora that lie beside the repository; see its MANIFEST.md."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; it holds the trained models this test reads")
    return folder


@pytest.fixture(scope="session")
def stdlib_5m() -> Path:
    """The trained model in the repository: window 64, bfloat16, untied."""
    return ROOT / "models" / "stdlib-5m"


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, stdlib_5m: Path
) -> Callable[..., Path]:
    """Write a random, seeded checkpoint folder as transformers does.

    Options: ``architecture``, ``tie``, ``max_shard_size`` and ``dtype`` (a name of torch's);
    further keywords go to the config. The vocabulary is that of ``stdlib_5m``'s tokenizer.
    Equal options give equal numbers, however they are cut into shards.
    """
    import torch
    import transformers

    def write(
        architecture: str = "MistralForCausalLM",
        *,
        tie: bool = False,
        max_shard_size: str = "5GB",
        dtype: str = "float32",
        **overrides: Any,
    ) -> Path:
        family = architecture.removesuffix("ForCausalLM")
        sizes = {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 2048,
            "max_position_embeddings": 256,
            "tie_word_embeddings": tie,
            "initializer_range": 0.15,  # large enough for attention to choose between keys
            **({"sliding_window": 8} if family == "Mistral" else {}),
        }
        config = getattr(transformers, f"{family}Config")(**{**sizes, **overrides})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(transformers, architecture)(config)
            for name, parameter in model.named_parameters():
                if "norm" in name:  # they start as ones, which would hide a missing scale
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
        folder = tmp_path_factory.mktemp("checkpoint")
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
        shutil.copy(stdlib_5m / "tokenizer.model", folder)
        return folder

    return write
