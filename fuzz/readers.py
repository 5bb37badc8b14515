"""What is fuzzed: a file of a good folder, and what reads the folder after the file was mutated.

A new reader is a function and an entry in ``READERS``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..cli.artifact_summary import summarize
from ..export.formats.checkpoint import Checkpoint
from ..export.formats.gguf.writer import write_gguf
from ..export.sidecars.sidecars import _generation
from ..export.sidecars.upstream_metadata import read_upstream_metadata
from ..export.tokenizer.tokenizer import read_vocabulary
from ..graphs.lint.rules import lint
from ..runtime import manifest as manifests
from ..runtime.cache import CacheLayout
from ..runtime.contract import MANIFEST_FILE, Geometry
from ..runtime.manifest import Manifest, Vocabulary, describe_file, read_manifest, verify_files
from ..runtime.memory import MemoryPlan

MODEL = Path(__file__).parents[1] / "models" / "stdlib-5m"
_GRAPH = """<ir_version: 10, opset_import: ["":23]> g (int64[B,T] input_ids, float[B,2,R,16]
past_key_values.0.key) => (float[B,T,64] logits) { x = Gather(table, input_ids)
y = Transpose<perm=[1,0]>(table) logits = MatMul(x, y) }"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A file, and what reads it."""

    file: str  # in the folder
    content: Callable[[Path], bytes]  # of a good one, given a folder to make it in
    read: Callable[[Path], object]  # the folder
    is_checkpoint: bool = False  # whether the other files of the demo model are beside it
    repair: Callable[[bytes], bytes] = bytes  # makes a mutated file's own hash right


def _published(name: str) -> Callable[[Path], bytes]:
    return lambda _: (MODEL / name).read_bytes()


def _read_checkpoint(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        read_vocabulary(checkpoint)
        _generation(checkpoint)
        json.dumps(read_upstream_metadata(checkpoint))


def _read_gguf(folder: Path) -> None:
    with Checkpoint.open(folder / "model.gguf") as checkpoint:
        read_vocabulary(checkpoint)
        json.dumps(read_upstream_metadata(checkpoint))


def _of_checkpoint(name: str, content: bytes | None = None) -> Reader:
    made = _published(name) if content is None else lambda _: content
    return Reader(file=name, content=made, read=_read_checkpoint, is_checkpoint=True)


def _gguf(folder: Path) -> bytes:
    path = folder / "made.gguf"
    with Checkpoint.open(MODEL) as checkpoint:
        write_gguf(checkpoint, path)
    content = path.read_bytes()
    path.unlink()
    return content


def _graph(_: Path) -> bytes:
    model = onnx.parser.parse_model(_GRAPH.replace("past_key_values.0.key", '"past.0.key"'))
    table = onnx.helper.make_tensor("table", onnx.TensorProto.FLOAT, [2, 2], [0.0] * 4)
    table.external_data.add(key="location", value="model.onnx_data")
    model.graph.initializer.append(table)
    return bytes(model.SerializeToString())


def _manifest(folder: Path) -> bytes:
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


def _with_own_hash(content: bytes) -> bytes:
    try:
        found = json.loads(content)
        found.pop("manifest_sha256", None)
        return manifests._text(found).encode()
    except (ValueError, AttributeError, RecursionError):
        return content


def _read_manifest(folder: Path) -> None:
    manifest = read_manifest(folder)
    json.dumps(summarize(manifest))
    verify_files(folder, manifest)


READERS = {
    "manifest.json": Reader(
        file=MANIFEST_FILE, content=_manifest, read=_read_manifest, repair=_with_own_hash
    ),
    "model.onnx": Reader(
        file="model.onnx", content=_graph, read=lambda folder: lint(folder / "model.onnx")
    ),
    "model.gguf": Reader(file="model.gguf", content=_gguf, read=_read_gguf),
    **{
        name: _of_checkpoint(name)
        for name in ("config.json", "tokenizer.model", "model.safetensors", "README.md")
    },
    "generation_config.json": _of_checkpoint(
        "generation_config.json", b'{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}'
    ),
    "tokenizer_config.json": _of_checkpoint(
        "tokenizer_config.json",
        b'{"add_bos_token": true, "bos_token": "<s>", "eos_token": {"content": "</s>"}, '
        b'"tokenizer_class": "LlamaTokenizer", "legacy": false, "chat_template": "{{ x }}", '
        b'"added_tokens_decoder": {"1": {"content": "<s>", "special": true, "lstrip": false}}}',
    ),
    "special_tokens_map.json": _of_checkpoint(
        "special_tokens_map.json", b'{"bos_token": "<s>", "eos_token": {"content": "</s>"}}'
    ),
    "added_tokens.json": _of_checkpoint("added_tokens.json", b'{"<s>": 1, "</s>": 2}'),
}
