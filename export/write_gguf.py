"""Writes a checkpoint as a GGUF file that llama.cpp can run."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..console.progress import track
from ..runtime.durable import replace_file
from ..runtime.errors import CheckpointError
from ..runtime.tokenizers.vocabulary import SENTENCEPIECE
from ..runtime.untrusted.fields import shown
from ..runtime.untrusted.files import refuse_impossible
from .formats.checkpoint import Checkpoint
from .formats.gguf import architectures
from .formats.gguf.architectures import GgufArchitecture
from .formats.gguf_package import gguf
from .formats.rope_layout import halves_to_pairs
from .formats.tensor_names import GGUF, HEAD, is_rotated, parameters
from .published_tokenizer.sentencepiece_model import KIND, parse
from .tokenizer.tokenizer import read_vocabulary

# The types that GGUF shares with safetensors.
_DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def write_gguf(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint as one GGUF file: the same numbers, one tensor in memory at a time.

    Matrices keep their published type, or are widened to F32 where it is a quantized one; vectors
    are F32, which llama.cpp demands. The window is noted, though llama.cpp honours none here. A
    tokenizer of SentencePiece is written; with any other the file has none, and runs on token ids.

    Raises:
        CheckpointError: a tokenizer that is missing or damaged, scaled rope, windows or layers
            without rope that no key says, an unreadable tensor, or a NaN or infinity; or the file
            cannot be written.

    Source: ggml, docs/gguf.md; llama.cpp, conversion/llama.py.
    """
    if scaling := checkpoint.config.rope_scaling:
        raise CheckpointError(
            f"{checkpoint.path}: rope is scaled by {shown(dict(scaling))}, expected no scaling, "
            "which is all that is written as GGUF; convert the checkpoint by llama.cpp's "
            "convert_hf_to_gguf.py"
        )
    refuse_impossible(path, error=CheckpointError)
    if path.exists() and not path.is_file():
        raise CheckpointError(
            f"{path}: exists and is no regular file, expected the name of the GGUF file to write; "
            "name another one"
        )
    architecture = _architecture_of(checkpoint)
    shapes = parameters(checkpoint.config)
    if checkpoint.config.tie_word_embeddings:
        del shapes[HEAD]  # llama.cpp reads the embedding in its place
    types = {name: _type_of(checkpoint, name) for name in shapes}
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tramontane-") as folder:
            partial = Path(folder) / path.name  # it gets its name when it is whole
            _write(checkpoint, partial, architecture, shapes, types)
            replace_file(partial, path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}), expected a folder that exists, may be "
            "written to and has room; name a file in another folder"
        ) from error


def _architecture_of(checkpoint: Checkpoint) -> GgufArchitecture:
    found = architectures.written_as(checkpoint.config)
    if found is None:
        raise CheckpointError(
            f"{checkpoint.path}: {checkpoint.config.architecture} with its windows and its layers "
            "without rope has no name in GGUF, expected what llama.cpp computes; export it "
            "without GGUF"
        )
    return found


def _write(
    checkpoint: Checkpoint,
    path: Path,
    architecture: GgufArchitecture,
    shapes: dict[str, tuple[int, ...]],
    types: dict[str, str],
) -> None:
    writer = gguf.GGUFWriter(path, architecture.name)
    try:
        _add_architecture(writer, checkpoint)
        _add_tokenizer(writer, checkpoint)
        for name, shape in shapes.items():
            dtype = np.dtype(_DTYPES[types[name]])
            writer.add_tensor_info(
                GGUF.published(name),
                shape,
                dtype,
                math.prod(shape) * dtype.itemsize,
                gguf.GGMLQuantizationType[types[name]],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in track(list(shapes), f"writing {path.name}"):
            values = checkpoint.read(name)
            if architecture.rope == "pairs" and is_rotated(name):
                values = halves_to_pairs(values, head_dim=checkpoint.config.head_dim)
            writer.write_tensor_data(values.astype(_DTYPES[types[name]]))
    finally:
        writer.close()


def _type_of(checkpoint: Checkpoint, parameter: str) -> str:
    tensor = checkpoint.sources[parameter]
    return tensor.dtype if len(tensor.shape) > 1 and tensor.dtype in _DTYPES else "F32"


def _add_architecture(writer: gguf.GGUFWriter, checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Checkpoint) -> None:
    """SentencePiece's pieces, and as many that no text has as the model scores beyond them."""
    published = checkpoint.read_tokenizer()
    if published.kind != SENTENCEPIECE:
        writer.add_tokenizer_model("no_vocab")  # llama.cpp then takes as many ids as it scores
        return
    model = parse(published.model)
    vocabulary = read_vocabulary(checkpoint)
    spare = range(len(model.pieces), checkpoint.config.vocab_size)
    writer.add_tokenizer_model("llama")  # SentencePiece's BPE
    writer.add_tokenizer_pre("default")
    writer.add_token_list([p.piece for p in model.pieces] + [f"[PAD{i}]" for i in spare])
    writer.add_token_scores([p.score for p in model.pieces] + [0.0 for _ in spare])
    # GGUF numbers kinds of pieces as SentencePiece does.
    writer.add_token_types([p.type for p in model.pieces] + [KIND.UNUSED for _ in spare])
    if vocabulary.bos_token_id is not None:
        writer.add_bos_token_id(vocabulary.bos_token_id)
    if vocabulary.eos_token_ids:
        writer.add_eos_token_id(vocabulary.eos_token_ids[0])
    writer.add_add_bos_token(vocabulary.add_bos_token)
    writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(model.normalizer_spec.remove_extra_whitespaces)
