"""Is the reference, layer by layer, the model of transformers, and is its work done once?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.model import load as loading
from tramontane.graphs.writing.own_folders import MARK_FILE
from tramontane.runtime.errors import ContractError
from tramontane.validate.reference import reference as module
from tramontane.validate.reference import reference_cache as store_module
from tramontane.validate.reference.reference import Reference
from tramontane.validate.reference.reference_cache import Store
from transformers import AutoModelForCausalLM

TOKENS = np.random.default_rng(0).integers(0, 2048, 100)
CONTINUES = np.concatenate([TOKENS[:90], TOKENS[:20]])


def untracked(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


def reference_of(folder: Path, store: Path) -> Reference:
    checkpoint = Checkpoint.open(folder)
    return Reference(checkpoint.config, checkpoint, store=Store(store), track=untracked)


def kept(store: Path) -> list[str]:
    """Names of all that a store holds, without its own mark."""
    return sorted(path.name for path in store.iterdir() if path.name != MARK_FILE)


@pytest.mark.parametrize(
    "options",
    [{}, {"tie": True}, {"architecture": "LlamaForCausalLM"}, {"sliding_window": 50}],
    ids=str,
)
def test_logits_and_keys_are_those_of_transformers(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = tiny_checkpoint(**options)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    run = reference_of(folder, tmp_path).runs([TOKENS])[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(TOKENS)[None], use_cache=True)
    np.testing.assert_allclose(run.logits, expected.logits[0], atol=2e-4)
    rows = min(run.keys.shape[2], 7)  # transformers keeps no more of a windowed layer
    for layer, keys in enumerate(run.keys):
        theirs = expected.past_key_values.layers[layer].keys[0].numpy()
        np.testing.assert_allclose(keys[:, -rows:], theirs[:, -rows:], atol=1e-4)


def test_pieces_of_a_layer_give_what_the_whole_gives(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint()
    whole = reference_of(folder, tmp_path / "whole").runs([TOKENS])[0]
    monkeypatch.setattr(module, "_SCORE_BYTES", 4 * 4 * 100 * 3)  # three positions at once
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 7)
    pieces = reference_of(folder, tmp_path / "pieces").runs([TOKENS])[0]
    np.testing.assert_allclose(pieces.logits, whole.logits, atol=1e-4)
    np.testing.assert_allclose(pieces.keys, whole.keys, atol=1e-5)


def test_work_is_done_once_and_again_when_anything_changes(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint()
    first = reference_of(folder, tmp_path).runs([TOKENS])[0].logits
    loaded = []
    real = loading.load_layer
    monkeypatch.setattr(module, "load_layer", lambda *args: loaded.append(args) or real(*args))
    again = reference_of(folder, tmp_path)
    np.testing.assert_array_equal(again.runs([TOKENS])[0].logits, first)
    assert loaded == []
    again.runs([TOKENS[:-1]])
    assert len(loaded) == 2  # other tokens
    other = dataclasses.replace(again.config, sliding_window=9)
    Reference(other, again.checkpoint, store=Store(tmp_path), track=untracked).runs([TOKENS])
    assert len(loaded) == 4  # another window


@pytest.mark.slow
def test_no_more_than_one_layer_is_loaded_at_a_time(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    alive: list[weakref.ref[Any]] = []
    most = 0
    real = loading.load_layer

    def counted(*args: Any) -> Any:
        nonlocal most
        layer = real(*args)
        alive.append(weakref.ref(layer))
        gc.collect()
        most = max(most, sum(one() is not None for one in alive))
        return layer

    monkeypatch.setattr(module, "load_layer", counted)
    reference_of(tiny_checkpoint(num_hidden_layers=6), tmp_path).runs([TOKENS])
    assert len(alive) == 6
    assert most <= 2  # the next is loaded before the last name of the one before is gone


def test_an_interrupted_run_is_resumed_at_the_layer_that_it_had_reached(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint()
    whole = reference_of(folder, tmp_path / "whole").runs([TOKENS, CONTINUES])
    reference = reference_of(folder, tmp_path / "store")

    def interrupted(items: Sequence[Any], label: str) -> Iterable[Any]:
        yield items[0]
        raise KeyboardInterrupt

    reference.track = interrupted
    with pytest.raises(KeyboardInterrupt):
        reference.runs([TOKENS, CONTINUES])
    assert [name[:9] for name in kept(tmp_path / "store")] == [".partial-"]
    loaded: list[int] = []
    real = loading.load_layer
    monkeypatch.setattr(module, "load_layer", lambda *a: loaded.append(a[2]) or real(*a))
    found = reference_of(folder, tmp_path / "store").runs([TOKENS, CONTINUES])
    assert loaded == [1]
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.keys, other.keys)
    assert not [name for name in kept(tmp_path / "store") if name.startswith(".")]


def test_a_damaged_state_begins_anew(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint()
    reference = reference_of(folder, tmp_path)

    def interrupted(items: Sequence[Any], label: str) -> Iterable[Any]:
        yield items[0]
        raise KeyboardInterrupt

    reference.track = interrupted
    with pytest.raises(KeyboardInterrupt):
        reference.runs([TOKENS])
    state = next(tmp_path.glob("*/state.npz"))
    state.write_bytes(state.read_bytes()[:100])
    loaded: list[int] = []
    real = loading.load_layer
    monkeypatch.setattr(module, "load_layer", lambda *a: loaded.append(a[2]) or real(*a))
    reference_of(folder, tmp_path).runs([TOKENS])
    assert loaded == [0, 1]


@pytest.mark.parametrize("window", [7, 50, None])
def test_a_sequence_continues_from_one_that_begins_alike(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, window: int | None
) -> None:
    folder = tiny_checkpoint(sliding_window=window)
    both = reference_of(folder, tmp_path / "both").runs([TOKENS, CONTINUES])
    alone = reference_of(folder, tmp_path / "alone").runs([CONTINUES])[0]
    np.testing.assert_allclose(both[1].logits, alone.logits, atol=1e-4)
    np.testing.assert_allclose(both[1].keys, alone.keys, atol=1e-5)
    np.testing.assert_allclose(both[1].values, alone.values, atol=1e-5)
    np.testing.assert_array_equal(both[1].keys[:, :, :90], both[0].keys[:, :, :90])


def test_hidden_states_are_kept_at_some_positions(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint()
    positions, every = reference_of(folder, tmp_path / "every").hidden(TOKENS)
    assert positions.tolist() == list(range(len(TOKENS)))
    monkeypatch.setattr(module, "_MOST_HIDDEN", 30)
    reference = reference_of(folder, tmp_path / "some")
    reference.runs([TOKENS])
    positions, some = reference.hidden(TOKENS[:50])  # what is known of a longer one
    assert positions.tolist() == list(range(0, 50, 4))
    np.testing.assert_array_equal(some, every[:, positions])


def test_a_damaged_file_is_made_again(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    reference = reference_of(tiny_checkpoint(), tmp_path)
    expected = np.array(reference.runs([TOKENS])[0].logits)
    damaged = next(tmp_path.glob("*/logits.npy"))
    damaged.write_bytes(damaged.read_bytes()[:200])
    np.testing.assert_array_equal(reference.runs([TOKENS])[0].logits, expected)


def test_the_oldest_go_when_the_store_is_full(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = reference_of(tiny_checkpoint(), tmp_path)
    reference.runs([TOKENS])
    oldest = kept(tmp_path)
    monkeypatch.setattr(store_module, "MOST_BYTES", 1_500_000)
    reference.runs([TOKENS[1:]])
    assert len(kept(tmp_path)) == 1
    assert kept(tmp_path) != oldest


def test_a_store_that_cannot_be_made_is_refused_by_its_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ContractError, match="cannot be created .*--store"):
        Store(tmp_path / "file" / "store")
