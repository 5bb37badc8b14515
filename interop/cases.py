"""The artifacts of the matrix, and the job that every runtime gets for each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..export.build import (
    export_checkpoint,
)
from ..export.options import (
    ExportOptions,
)
from ..export.published_tokenizer.probe_texts import PROBE_TEXTS, around
from ..export.window_choice import WindowChoice
from ..graphs.quantization.recipes.all_recipes import recipe_of
from ..runtime.errors import ContractError
from ..runtime.loading.open_tokenizer import open_tokenizer
from ..runtime.manifest import Manifest, read_manifest
from ..runtime.sizes import counted
from ..validate.sequences.tokens import SAMPLE
from .scaled_rope import make_ministral3
from .tokenized import ADDED, CHAT, MAKERS, make_checkpoint

NEW_TOKENS = 160  # several windows
_WINDOWS = 3  # tokens of the prompt fed at once
_STAND_IN_WINDOW = 32  # of a model without one
_SHARD_BYTES = 2 * 10**6  # several files of weights, as a large model has
NUM_SCORED = 512  # positions, for runtimes whose kernels round differently


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixCase:
    """One artifact, and a text like its model's training data."""

    name: str
    checkpoint: Path
    options: ExportOptions
    has_window: bool = True
    prompt: str  # greedy decoding from it reaches no end token
    text: Path
    tokenizer: str | None = None  # of ``tokenized.MAKERS``; None: the checkpoint's own
    is_ministral3: bool = False  # made of the checkpoint by ``make_ministral3``


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A case's artifact, and the job for every runtime."""

    case: MatrixCase
    folder: Path
    manifest: Manifest
    job: dict[str, Any]

    @property
    def is_quantized(self) -> bool:
        """Whether its weights are rounded, so that tokens depend on the kernels."""
        return recipe_of(self.manifest).is_quantized


def cases(model: Path, shared: Path | None) -> Iterator[MatrixCase]:
    """Every recipe of the bundled demo model, then other trained models if ``shared`` has them."""
    prompt = "def fibonacci("
    for quant, target, cache, shard in (
        ("fp32", "ort", "windowed", None),
        ("int8", "ort", "windowed", None),
        ("int4", "ort", "windowed", None),
        ("int4-small", "ort", "windowed", None),  # scales that the runtime must fold as it loads
        ("int8-dynamic", "ort", "windowed", None),
        ("int8", "web", "windowed", _SHARD_BYTES),
        ("fp32", "portable", "windowed", None),
        ("fp32", "ort", "growing", None),
        ("int8", "ort", "growing", None),
        ("int4", "ort", "growing", None),
    ):
        options = ExportOptions(quant=quant, target=target, cache=cache, max_shard_bytes=shard)
        yield MatrixCase(
            name=f"{model.name} {quant} {target}"
            f"{' growing' * options.cache_choice.grows}{' in files' * (shard is not None)}",
            checkpoint=model,
            options=options,
            prompt=prompt,
            text=SAMPLE,
        )
    for name in MAKERS:
        yield MatrixCase(
            name=f"{model.name} fp32 ort growing, {name}",
            checkpoint=model,
            options=ExportOptions(quant="fp32", target="ort", cache="growing"),
            prompt=prompt,
            text=SAMPLE,
            tokenizer=name,
        )
    if shared is None:
        return
    stories, text = stories_in(shared)
    windows: dict[str, WindowChoice | None] = {
        "window 32": 32,
        "no window": None,
        "windows by layer": (None, 32, 32),
    }
    for label, window in windows.items():
        yield MatrixCase(
            name=f"{stories.name} fp32 ort, {label}",
            checkpoint=stories,
            options=ExportOptions(quant="fp32", target="ort", window=window),
            has_window=window is not None,
            # From the other a start token follows, which onnxruntime-genai spells otherwise.
            prompt="The little dog" if isinstance(window, tuple) else "Once upon a time",
            text=text,
        )
    yield MatrixCase(
        name=f"{stories.name} fp32 ort, as Ministral 3",
        checkpoint=stories,
        options=ExportOptions(quant="fp32", target="ort"),
        has_window=False,
        prompt="Once upon a time",
        text=text,
        is_ministral3=True,
    )


def stories_in(shared: Path) -> tuple[Path, Path]:
    """A trained model, and text like its training data."""
    return shared / "models" / "stories15M", shared / "corpora" / "tinystories.txt"


def export(case: MatrixCase, folder: Path) -> Exported:
    """Export a case without the parity check, and write its job.

    Raises:
        TramontaneError: as ``export_checkpoint``.
    """
    made = folder.with_name(f"{folder.name}-checkpoint")
    if case.tokenizer is not None:
        make_checkpoint(case.tokenizer, case.checkpoint, made)
        case = dataclasses.replace(case, checkpoint=made)
    elif case.is_ministral3:
        case = dataclasses.replace(case, checkpoint=make_ministral3(case.checkpoint, made))
    export_checkpoint(case.checkpoint, folder, case.options, resume=False)
    manifest = read_manifest(folder)
    tokenizer = open_tokenizer(folder, manifest)
    window = max((one for one in manifest.geometry.windows if one), default=_STAND_IN_WINDOW)
    tokens = tokenizer.encode(case.text.read_text(encoding="utf-8"))
    most = min(NUM_SCORED, manifest.geometry.max_positions)
    job = {
        "artifact": str(folder.resolve()),
        "prompts": [tokenizer.encode(case.prompt), tokens[: _WINDOWS * window]],
        "new_tokens": NEW_TOKENS,
        "texts": [case.prompt],
        "strings": [*PROBE_TEXTS, *around(ADDED.get(case.tokenizer or "", ()))],
        "chat": None if case.tokenizer is None else CHAT,
        "score": tokens[:most],
        "exact_int8": recipe_of(manifest).is_dynamic,  # asked for, as the card says
        "logits": str(folder.resolve().with_suffix(".logits")),
    }
    return Exported(case=case, folder=folder, manifest=manifest, job=job)


def write_job(exported: Exported, path: Path, **changes: Any) -> Path:
    """Write a job for one runtime."""
    path.write_text(json.dumps({**exported.job, **changes}), encoding="utf-8")
    return path


def read_logits(exported: Exported) -> np.ndarray:
    """Logits that a runtime wrote, (T, V) float32; the file is removed."""
    path, V = Path(exported.job["logits"]), exported.manifest.geometry.vocab_size
    if not path.is_file():
        return np.empty((0, V), np.float32)
    numbers = np.fromfile(path, "<f4")
    path.unlink()
    return numbers[: len(numbers) // V * V].reshape(-1, V)


def refuse_end_tokens(exported: Exported, tokens: list[list[int]]) -> None:
    """Refuse prompts whose answers other runtimes would end early.

    Raises:
        ContractError: naming the prompt.
    """
    ends = set(exported.manifest.vocabulary.eos_token_ids)
    for number, made in enumerate(tokens):
        if ends.intersection(made):
            before = next(at for at, token in enumerate(made) if token in ends)
            raise ContractError(
                f"{exported.case.name}: prompt {number} leads to an end token after "
                f"{counted(before, 'token')}, expected none in {len(made)}; choose another prompt"
            )
