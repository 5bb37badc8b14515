"""Good files of every kind that is fuzzed, small so that a case takes little time."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx

from ..export.config import MistralConfig
from ..export.formats.checkpoint import Checkpoint
from ..export.formats.layouts import read_config
from ..export.formats.mistral import to_params_json
from ..export.formats.tensor_names import HUGGING_FACE, MISTRAL, Naming, parameters
from ..export.synthesize.safetensors_stream import TensorEntry, write_safetensors
from ..export.write_gguf import write_gguf
from ..runtime import manifest as manifests
from ..runtime.cache import CacheLayout
from ..runtime.contract import KINDS, MANIFEST_FILE, Geometry
from ..runtime.manifest import Manifest, describe_file
from ..runtime.memory import MemoryPlan
from ..runtime.sequences.saved_state import write_state
from ..runtime.tokenizers.vocabulary import Vocabulary
from . import good_tokenizers

MODEL = Path(__file__).parents[1] / "models" / "stdlib-5m"
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_GRAPH = """<ir_version: 10, opset_import: ["":23]> g (int64[B,T] input_ids, float[B,2,R,16]
past_key_values.0.key) => (float[B,T,64] logits) { x = Gather(table, input_ids)
y = Transpose<perm=[1,0]>(table) logits = MatMul(x, y) }"""


def make_checkpoint(folder: Path) -> MistralConfig:
    """Write a checkpoint of one layer, with the demo model's tokenizer; the weights are zeros."""
    config = json.loads((MODEL / "config.json").read_bytes())
    (folder / "config.json").write_text(
        json.dumps({**config, **_SIZES}, indent=2), encoding="utf-8"
    )
    for name in ("README.md", "generation_config.json", "tokenizer.model"):
        shutil.copyfile(MODEL / name, folder / name)
    found = read_config(folder)
    _write_weights(folder / "model.safetensors", _entries(found, HUGGING_FACE))
    return found


def make_mistral_checkpoint(folder: Path) -> None:
    """Write the same in Mistral's layout, with a tekken.json in the tokenizer's place."""
    config = make_checkpoint(folder)
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.model"):
        (folder / name).unlink()
    (folder / "params.json").write_text(
        json.dumps(to_params_json(config), indent=2), encoding="utf-8"
    )
    (folder / "tekken.json").write_bytes(good_tokenizers.tekken(folder))
    _write_weights(folder / "consolidated.safetensors", _entries(config, MISTRAL))


def make_sharded_checkpoint(folder: Path) -> None:
    """Write the checkpoint with two files of weights; their index is left out."""
    entries = _entries(make_checkpoint(folder), HUGGING_FACE)
    (folder / "model.safetensors").unlink()
    for name, part in zip(SHARDS, (entries[:4], entries[4:]), strict=True):
        _write_weights(folder / name, part)


def make_pickled_checkpoint(folder: Path) -> None:
    """Write the checkpoint without its weights, in place of which a pickle comes."""
    make_checkpoint(folder)
    (folder / "model.safetensors").unlink()


def make_byte_level_checkpoint(folder: Path) -> None:
    """Write the checkpoint without a tokenizer, in place of which a tokenizer.json comes."""
    make_checkpoint(folder)
    (folder / "tokenizer.model").unlink()


def make_adapted_checkpoint(folder: Path) -> None:
    """Write the checkpoint, and a LoRA adapter of rank 4 beside it."""
    make_checkpoint(folder)
    adapter = folder / "adapter"
    adapter.mkdir()
    described = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": ["q_proj"],
        "rank_pattern": {"k_proj": 4},
        "use_rslora": False,
    }
    (adapter / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    entries = [
        TensorEntry(name=name.format(matrix), dtype="F32", shape=shape)
        for matrix, shape in (("A", (4, 64)), ("B", (64, 4)))
    ]
    _write_weights(adapter / "adapter_model.safetensors", entries)


def index(folder: Path) -> bytes:
    """The index of two files of weights."""
    entries = _entries(read_config(folder), HUGGING_FACE)
    where = {entry.name: SHARDS[number >= 4] for number, entry in enumerate(entries)}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": where}).encode()


def gguf(folder: Path) -> bytes:
    """The checkpoint as GGUF; the folder is left empty."""
    make_checkpoint(folder)
    path = folder / "made.gguf"
    with Checkpoint.open(folder) as checkpoint:
        write_gguf(checkpoint, path)
    content = path.read_bytes()
    for each in folder.iterdir():
        each.unlink()
    return content


def pickled(folder: Path) -> bytes:
    """The weights as torch.save writes them; the pickle is put together by hand.

    Source: PyTorch, torch/serialization.py; Python, pickletools.
    """
    entries = _entries(read_config(folder), HUGGING_FACE)
    out, records = io.BytesIO(), b""
    for key, entry in enumerate(entries):
        columns = (*entry.shape[1:], 1)
        sizes, strides = _integers(entry.shape), _integers(columns[: len(entry.shape)])
        storage = b"(" + _text("storage") + b"ctorch\nBFloat16Storage\n" + _text(str(key))
        storage += _text("cpu") + _integer(entry.num_bytes // 2) + b"tQ"
        hooks = b"ccollections\nOrderedDict\n)R"
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + sizes + strides
        records += _text(entry.name) + tensor + b"\x89" + hooks + b"tR"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + records + b"u.")
        archive.writestr("archive/byteorder", b"little")
        for key, entry in enumerate(entries):
            archive.writestr(f"archive/data/{key}", bytes(entry.num_bytes))
    return out.getvalue()


def make_gguf(folder: Path) -> None:
    """Write the checkpoint as GGUF."""
    content = gguf(folder)
    (folder / "model.gguf").write_bytes(content)


def graph(_: Path) -> bytes:
    """A decoder's graph, whose weights lie in another file."""
    model = onnx.parser.parse_model(_GRAPH.replace("past_key_values.0.key", '"past.0.key"'))
    table = onnx.helper.make_tensor("table", onnx.TensorProto.FLOAT, [2, 2], [0.0] * 4)
    table.external_data.add(key="location", value="model.onnx_data")
    model.graph.initializer.append(table)
    return bytes(model.SerializeToString())


def manifest(folder: Path) -> bytes:
    """A manifest with a value in every field."""
    rows = CacheLayout(window=8, rows=24)
    sizes = Geometry(
        num_key_value_heads=2, head_dim=16, vocab_size=64, layers=(rows,), max_positions=512
    )
    (folder / "a").write_bytes(b"1")
    plan = {name: 9 for name in MemoryPlan.__dataclass_fields__ if name != "other_quants"}
    manifests.write_manifest(
        folder,
        Manifest(
            quant="fp32",
            target="ort",
            geometry=sizes,
            vocabulary=Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True),
            memory=MemoryPlan(**plan, other_quants={"int8": 8}),
            source={"config.json": "ab"},
            tools={"onnx": "1"},
            tensors=[{"name": "x", "shape": [2, 2], "bits": 32}],
            origin={"name": "tiny"},
            tokenizer_json="made",
            files={"a": describe_file(folder / "a")},
        ),
    )
    return (folder / MANIFEST_FILE).read_bytes()


def session(folder: Path) -> bytes:
    """A session of four tokens, saved beside the manifest of its artifact."""
    manifest(folder)
    found = manifests.read_manifest(folder)
    sizes, path = found.geometry, folder / "saved.session"
    rows = np.zeros((sizes.num_key_value_heads, 4, sizes.head_dim), np.float32)
    write_state(
        path,
        artifact=found.sha256,
        cache_dtype="float32",
        ids=np.arange(4),
        starts=(0,) * len(KINDS),
        rows=[rows] * len(KINDS),
    )
    return path.read_bytes()


def _entries(config: MistralConfig, naming: Naming) -> list[TensorEntry]:
    return [
        TensorEntry(name=naming.published(name), dtype="BF16", shape=shape)
        for name, shape in parameters(config).items()
    ]


def _write_weights(path: Path, entries: Sequence[TensorEntry]) -> None:
    write_safetensors(path, entries, lambda entry: [memoryview(bytes(entry.num_bytes))])


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _integer(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little")


def _integers(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
