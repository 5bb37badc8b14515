"""Adapters that cannot be merged are refused by the name of what is in the way."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.runtime.errors import CheckpointError, ConfigError

Write = Callable[..., Path]
WEIGHTS = "adapter_model.safetensors"
LAYER = "base_model.model.model.layers.0."
A, B = f"{LAYER}self_attn.q_proj.lora_A.weight", f"{LAYER}self_attn.q_proj.lora_B.weight"


@pytest.fixture(scope="module")
def base(tiny_checkpoint: Write) -> Path:
    return tiny_checkpoint(tie=False)


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """Write an adapter by hand: PEFT's config with changes, and tensors (None leaves one out)."""

    def write(tensors: dict[str, torch.Tensor | None] | None = None, **changes: Any) -> Path:
        folder = tmp_path / "lora"
        folder.mkdir(exist_ok=True)
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"]).save_pretrained(folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
        own = {A: torch.ones(4, 64), B: torch.ones(64, 4), **(tensors or {})}
        save_file({n: t for n, t in own.items() if t is not None}, folder / WEIGHTS)
        return folder

    return write


def test_tensors_of_two_adapters_in_one_file_are_refused(
    base: Path, adapter: Callable[..., Path]
) -> None:
    second = {A.replace(".weight", ".second.weight"): torch.ones(4, 64)}
    with pytest.raises(CheckpointError, match="are for one place, expected the tensors of one"):
        Checkpoint.open(base, [adapter(second)])


def test_a_tensor_in_two_files_of_an_adapter_is_refused(
    base: Path, adapter: Callable[..., Path]
) -> None:
    folder = adapter()
    own = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    for number in (1, 2):
        part = {A: number * own[A], **({B: own[B]} if number == 1 else {})}
        save_file(part, folder / f"adapter_model-0000{number}-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="expected it once"):
        Checkpoint.open(base, [folder])


def test_a_pattern_that_peft_cannot_use_is_refused(
    base: Path, adapter: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match="rank_pattern has .*, no pattern"):
        Checkpoint.open(base, [adapter(rank_pattern={"(?i)q_proj": 4})])


@pytest.mark.parametrize("pattern", ["(a+)+q", "(?x:(a*) #\n*)", "a*b*c*d*", "(a|b){2,}"])
def test_a_pattern_that_may_take_hours_is_refused_at_once(
    base: Path, adapter: Callable[..., Path], pattern: str
) -> None:
    with pytest.raises(ConfigError, match="rank_pattern has .*, expected a pattern of at most 3"):
        Checkpoint.open(base, [adapter(rank_pattern={pattern: 4})])


def test_what_peft_writes_is_read(base: Path, adapter: Callable[..., Path]) -> None:
    with Checkpoint.open(base, [adapter()]) as checkpoint:
        assert checkpoint.read("layers.0.attention.query.weight").shape == (64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'; merge it with PEFT"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, r"use_dora \(True\) is not supported, expected a plain LoRA; merge"),
        ({"bias": "all"}, "bias is 'all', expected 'none'"),
        ({"lora_bias": True}, r"lora_bias \(True\) is not supported"),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices \(\[1\]\) is not supported"),
        ({"layer_replication": [[0, 1]]}, r"layer_replication .*is not supported"),
        ({"target_parameters": ["x"]}, r"target_parameters .*is not supported"),
        ({"of_a_later_version": 2}, r"of_a_later_version \(2\) is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base"),
        ({"init_lora_weights": 3}, "init_lora_weights is 3, which changes"),
        ({"r": 0}, "r is 0; expected at least 1"),
        ({"r": None}, "r is missing"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'; expected a number"),
        ({"rank_pattern": [1]}, r"rank_pattern is \[1\], expected an object"),
        ({"rank_pattern": {"q": 0}}, "q is 0; expected at least 1"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern has '\(', no pattern"),
        ({"modules_to_save": "norm"}, "modules_to_save is 'norm'; expected a list of names"),
    ],
)
def test_config_that_is_no_plain_lora_is_refused_by_name(
    base: Path, adapter: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    folder = adapter(**changes)
    with pytest.raises(ConfigError, match=rf"adapter_config\.json: {message}"):
        Checkpoint.open(base, [folder])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({A: None}, "q_proj has one of the matrices lora_A and lora_B, expected both"),
        ({A: None, B: None}, "holds no tensors, expected a LoRA"),
        ({A: torch.ones(3, 64)}, r"lora_A.weight has shape \(3, 64\), .* imply \(4, 64\)"),
        ({B: torch.ones(32, 4)}, r"lora_B.weight has shape \(32, 4\), .* imply \(64, 4\)"),
        ({A: torch.ones(4, 64).to(torch.int8)}, "is of type I8, expected one of F32"),
        ({f"{LAYER}self_attn.q_proj.lora_magnitude_vector": torch.ones(64)}, "is no matrix of a"),
        ({f"{LAYER}self_attn.q_proj.bias": torch.ones(64)}, "is no matrix of a LoRA and no saved"),
        (
            {f"{LAYER}attn.c.lora_A.weight": torch.ones(4, 64)}
            | {f"{LAYER}attn.c.lora_B.weight": torch.ones(64, 4)},
            r"model\.layers\.0\.attn\.c is no module of the base model, expected one such as model",
        ),
        (
            {f"{LAYER}mlp.up_proj.lora_embedding_A": torch.ones(4, 64)}
            | {f"{LAYER}mlp.up_proj.lora_embedding_B": torch.ones(128, 4)},
            "is of another kind than the base model's model.layers.0.mlp.up_proj",
        ),
        ({f"{LAYER}input_layernorm.weight": torch.ones(32)}, r"\(32,\), .* imply \(64,\)"),
        (
            {"base_model.model.model.embed_tokens.weight": torch.ones(2050, 64)},
            r"has 2050 tokens and lm_head\.weight has 2048, expected as many; save both",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    base: Path, adapter: Callable[..., Path], tensors: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(base, [adapter(tensors)])


def test_nan_of_an_adapter_is_named(base: Path, adapter: Callable[..., Path]) -> None:
    folder = adapter({B: torch.full((64, 4), float("nan"))})
    with (
        Checkpoint.open(base, [folder]) as checkpoint,
        pytest.raises(
            CheckpointError,
            match=r"q_proj\.weight \(of .*model\.safetensors\) with its adapter holds 4096 values",
        ),
    ):
        checkpoint.read("layers.0.attention.query.weight")


def test_whole_matrix_for_a_base_of_another_rope_layout_is_refused(
    base: Path, adapter: Callable[..., Path], as_mistral: Write
) -> None:
    folder = adapter({f"{LAYER}self_attn.q_proj.weight": torch.ones(64, 64)})
    Checkpoint.open(base, [folder])
    with pytest.raises(CheckpointError, match="the base model has rope layout pairs, expected"):
        Checkpoint.open(as_mistral(base), [folder])


def test_folder_without_an_adapter_or_its_weights_is_refused(
    base: Path, adapter: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=r"--adapter .*: holds no adapter_config\.json"):
        Checkpoint.open(base, [base])
    folder = adapter()
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"no weights, expected adapter_model\.safetensors"):
        Checkpoint.open(base, [folder])


@pytest.mark.parametrize("name", ["org/name", "", None])
def test_adapter_in_the_place_of_its_base_model_is_named_with_a_command(
    adapter: Callable[..., Path], name: str | None
) -> None:
    folder = adapter(base_model_name_or_path=name)
    with pytest.raises(ConfigError, match="is a LoRA adapter.*, expected its base model") as error:
        Checkpoint.open(folder)
    said = str(error.value)
    assert f"--adapter {folder}" in said
    if name:
        assert "export models/name --adapter" in said
        assert "download org/name --local-dir models/name" in said


def test_command_for_an_adapter_works_when_its_base_model_is_there(
    base: Path, adapter: Callable[..., Path]
) -> None:
    folder = adapter(base_model_name_or_path=str(base))
    with pytest.raises(ConfigError) as error:
        Checkpoint.open(folder)
    words = re.search(r" export (\S+) --adapter (\S+)$", str(error.value))
    assert words is not None
    Checkpoint.open(Path(words[1]), [Path(words[2])])


def test_merged_model_beside_its_adapter_is_not_guessed(
    base: Path, adapter: Callable[..., Path], tiny_checkpoint: Write
) -> None:
    merged = tiny_checkpoint()
    for file in adapter().iterdir():
        (merged / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"is of the merged model, remove adapter_config\.json"):
        Checkpoint.open(merged)
    (merged / "adapter_config.json").unlink()
    Checkpoint.open(merged)


def test_files_of_an_adapter_are_held(base: Path, adapter: Callable[..., Path]) -> None:
    folder = adapter()
    with Checkpoint.open(base, [folder]) as checkpoint:
        save_file(load_file(folder / WEIGHTS), folder / "other")
        (folder / "other").rename(folder / WEIGHTS)
        with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: was replaced by another file"):
            checkpoint.refuse_changed()


def test_tokenizer_of_the_adapter_that_is_not_read_is_said_and_refused_with_added_tokens(
    base: Path, adapter: Callable[..., Path]
) -> None:
    folder = adapter()
    (folder / "added_tokens.json").write_text("{}")
    with Checkpoint.open(base, [folder]) as checkpoint:
        (note,) = checkpoint.notes
        assert "holds added_tokens.json and neither tokenizer.json nor tokenizer.model" in note
        assert note.endswith("; the base model's tokenizer is used")
    ends = ("model.embed_tokens", "lm_head")
    adapter({f"base_model.model.{end}.weight": torch.ones(2050, 64) for end in ends})
    with pytest.raises(CheckpointError, match="expected the tokenizer with the tokens that the"):
        Checkpoint.open(base, [folder])


def test_tokenizer_json_of_the_adapter_brings_its_added_tokens(
    base: Path, adapter: Callable[..., Path]
) -> None:
    folder = adapter()
    own = transformers.AutoTokenizer.from_pretrained(base)
    own.add_tokens(["<|im_start|>"], special_tokens=True)
    own.save_pretrained(folder)
    assert not (folder / "tokenizer.model").exists()
    with Checkpoint.open(base, [folder]) as checkpoint:
        assert checkpoint.read_tokenizer().path == folder / "tokenizer.json"
        assert folder / "tokenizer.json" in checkpoint.files
        assert base / "tokenizer.model" not in checkpoint.files


def test_tokenizer_of_the_adapter_takes_the_place_of_the_bases(
    base: Path, adapter: Callable[..., Path]
) -> None:
    folder = adapter()
    with Checkpoint.open(base, [folder]) as checkpoint:
        assert checkpoint.read_tokenizer().path == base / "tokenizer.model"
    (folder / "tokenizer.model").write_bytes((base / "tokenizer.model").read_bytes())
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    with Checkpoint.open(base, [folder]) as checkpoint:
        tokenizer = checkpoint.read_tokenizer()
        assert checkpoint.read_tokenizer() is tokenizer  # parsed once
        assert (tokenizer.path, tokenizer.adds_bos) == (folder / "tokenizer.model", False)
        assert sum(path.name == "tokenizer.model" for path in checkpoint.files) == 1
        assert folder / "tokenizer_config.json" in checkpoint.files
    (base / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    (folder / "tokenizer_config.json").unlink()
    with Checkpoint.open(base, [folder]) as checkpoint:
        assert "tokenizer_config.json" not in checkpoint.hashes()


def test_of_two_adapters_with_tokenizers_the_last_alone_is_a_source(
    base: Path, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    first = adapter()
    own = transformers.AutoTokenizer.from_pretrained(base)
    own.save_pretrained(first)
    assert not (first / "tokenizer.model").exists()
    second = Path(shutil.copytree(first, tmp_path / "second"))
    (second / "tokenizer.json").unlink()
    shutil.copy(base / "tokenizer.model", second)
    for folders, deciding in (
        ([first, second], second / "tokenizer.model"),
        ([second, first], first / "tokenizer.json"),
    ):
        with Checkpoint.open(base, folders) as checkpoint:
            named = [path for path in checkpoint.files if path.name.startswith("tokenizer.")]
            assert named == [deciding]
            assert checkpoint.read_tokenizer().path == deciding
