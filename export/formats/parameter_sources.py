"""Finds the tensor of each parameter in a published model, and checks names, types and shapes."""

from __future__ import annotations

import numpy as np

from ...runtime.errors import CheckpointError
from . import float8
from .foreign_weights import refuse_foreign_weights, unused_quantization
from .published import Layout, Published
from .tensor_names import EMBEDDING, HEAD, parameters
from .weight_files.stored_tensor import TensorSource
from .wrappers import Names, find_names

_MOST_NAMED = 4  # tensors, in one note
# Parts of a model of images and text (``Mistral3ForConditionalGeneration``) beside the decoder.
_OF_IMAGES = ("vision_tower.", "multi_modal_projector.")
_SLICE_ELEMENTS = 1 << 20  # read at once of a tensor that is only compared


def find_sources(published: Published) -> tuple[dict[str, TensorSource], list[str]]:
    """The tensor of each parameter of ``Mistral``, in the order of the model.

    Returns:
        tensors by parameter, and notes for the user on what was read in another way than it is
        described.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen or of a type that is not read;
            a bias is not zero; the head of a tied model differs from the embedding.
    """
    refuse_foreign_weights(published)
    config, tensors = published.config, published.tensors
    names = find_names(
        tensors,
        published.naming,
        parameters(config),
        is_tied=config.tie_word_embeddings,
        where=str(published.path),
        described_in=published.described_in,
    )
    for own in (*names.published.values(), *names.beside.values()):
        if own in published.twice:
            raise CheckpointError(published.twice[own])
    notes = [*published.notes, *_note_of_prefix(published, names), *unused_quantization(published)]
    sources: dict[str, TensorSource] = {}
    used = set()  # of the tensors beside the weights
    for parameter, shape in parameters(config).items():
        if parameter in names.published:
            tensor = tensors[names.published[parameter]]
            _check_header(published, tensor, shape)
            if tensor.dtype in float8.TYPES:
                scale = _scale(published, names, parameter)
                used |= set() if scale is None else {scale.name}
                tensor = float8.with_scales(tensor, scale, published.quantization)
            elif published.layout is Layout.GGUF and parameter != EMBEDDING and len(shape) == 2:
                beside = names.beside_weight(parameter, float8.GGUF_SCALE)
                if beside is not None:
                    used.add(beside)
                    tensor = float8.with_one_scale(tensor, published.tensors[beside])
            sources[parameter] = tensor
    notes += _refuse_others(published, names, used)
    if config.tie_word_embeddings:
        if HEAD in sources:
            _refuse_untied(published, sources[HEAD], sources[EMBEDDING])
        sources[HEAD] = sources[EMBEDDING]
    return {parameter: sources[parameter] for parameter in parameters(config)}, notes


def _note_of_prefix(published: Published, names: Names) -> list[str]:
    own = names.published[EMBEDDING]
    if own == published.naming.published(EMBEDDING):
        return []
    return [
        f"{published.path}: tensor names differ from the usual ones ({own}, usually "
        f"{published.naming.published(EMBEDDING)}); they are read as if they had the usual names"
    ]


def _check_header(published: Published, tensor: TensorSource, shape: tuple[int, ...]) -> None:
    """Compare type and shape with what the description implies."""
    _check_type(published, tensor)
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.path}: {tensor.name} has shape {tensor.shape}, {published.described_in} "
            f"implies {shape}; check that both are of one model"
        )


def _check_type(published: Published, tensor: TensorSource, more: tuple[str, ...] = ()) -> None:
    types = (*published.types, *more)
    if tensor.dtype not in types:
        raise CheckpointError(
            f"{tensor.path}: {tensor.name} is of type {tensor.dtype}, expected one of "
            f"{', '.join(types)}; start from the float checkpoint"
        )


def _scale(published: Published, names: Names, parameter: str) -> TensorSource | None:
    """The tensor of scales beside a weight."""
    found = (names.beside_weight(parameter, ending) for ending in float8.SCALES)
    own = next(filter(None, found), None)
    if own is None:
        return None
    scale = published.tensors[own]
    _check_type(published, scale, float8.EXPONENTS)
    return scale


def _refuse_others(published: Published, names: Names, used: set[str]) -> list[str]:
    """Refuse tensors that may be parts of the decoder, but biases that are zero.

    Scales of activations, and heads of another task, are left out, with a note.
    """
    others = sorted(set(names.beside.values()) - used)
    has_scales = bool(used) or any(one.dtype in float8.TYPES for one in published.tensors.values())
    left_out = [
        own for own in others if has_scales and own.rpartition(".")[2] in float8.OF_ACTIVATIONS
    ]
    notes = [
        f"{published.path}: scales of activations, such as {own}, are left out: weights become "
        "the numbers that they stand for, and activations stay float"
        for own in left_out[:1]
    ]
    unrelated = [own for own in others if own not in left_out and _is_unrelated(published, own)]
    notes += _note_of_unrelated(published, unrelated)
    others = [own for own in others if own not in {*left_out, *unrelated}]
    weights = {own: parameter for parameter, own in names.published.items()}
    known = {own.removesuffix("weight") + "bias" for own in weights}
    extra = [own for own in others if own not in known]
    if extra:
        raise CheckpointError(
            f"{published.path}: {extra[0]} is unexpected ({len(extra)} such in all), expected "
            f"only what {published.described_in} implies; check that both are of one model"
        )
    for own in others:
        _refuse_bias(published, published.tensors[own])
    return notes


def _is_unrelated(published: Published, own: str) -> bool:
    """Whether a tensor belongs to no part of the decoder, such as the head of a reward model.

    transformers ignores such a tensor, with a warning. Segments of the decoder's own names mark
    one that may change the model: another layer, a bias, an adapter that is not merged. In the
    other layouts every tensor is refused, as llama.cpp and mistral-inference refuse it.
    """
    if published.layout is not Layout.HUGGING_FACE or ".lora_" in own:
        return False
    if own.removeprefix("model.").startswith(_OF_IMAGES):
        return True
    naming = published.naming
    ends = (naming.published(name).split(".")[-2] for name in (EMBEDDING, "norm.weight", HEAD))
    decoder = {naming.layer.split(".{}")[0].split(".")[-1], *ends}
    return decoder.isdisjoint(own.split("."))


def _note_of_unrelated(published: Published, unrelated: list[str]) -> list[str]:
    if not unrelated:
        return []
    names = ", ".join(unrelated[:_MOST_NAMED])
    more = len(unrelated) - _MOST_NAMED
    return [
        f"{published.path}: tensors that are not of the decoder are not read, as in transformers: "
        f"{names}{f' and {more} more' if more > 0 else ''}"
    ]


def _refuse_bias(published: Published, tensor: TensorSource) -> None:
    _check_type(published, tensor)
    if len(tensor.shape) != 1:
        raise CheckpointError(
            f"{tensor.path}: {tensor.name} has shape {tensor.shape}, expected one number for each "
            "row of its weight; check that the file is whole"
        )
    parts = tensor.slices(_SLICE_ELEMENTS)
    largest = max((float(np.abs(values).max(initial=0)) for values in parts), default=0.0)
    if largest != 0:
        raise CheckpointError(
            f"{tensor.path}: {tensor.name} is not zero (largest magnitude {largest:g}), expected "
            "no biases, or zeros; models with biases are not supported"
        )


def _refuse_untied(published: Published, head: TensorSource, embedding: TensorSource) -> None:
    rows = max(1, _SLICE_ELEMENTS // published.config.hidden_size)
    # Bits, so that a NaN, which is found on reading, is not called a difference.
    is_equal = head.dtype == embedding.dtype and all(
        np.array_equal(a.view(np.uint32), b.view(np.uint32))
        for a, b in zip(head.slices(rows), embedding.slices(rows), strict=True)
    )
    if not is_equal:
        raise CheckpointError(
            f"{head.path}: {head.name} differs from {embedding.name}, expected the same since "
            f"tie_word_embeddings is true; correct {published.described_in} or remove the tensor"
        )
