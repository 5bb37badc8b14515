"""Prints the sizes of known models for ``docs/models.md``: bytes, memory and bits per weight."""

from __future__ import annotations

from collections.abc import Sequence

from ..export.cache_choice import WINDOWED, geometry_of
from ..export.config import MistralConfig
from ..export.formats.tensor_names import HEAD, parameters
from ..export.known_models import GEOMETRIES
from ..export.planning.plan import plan
from ..graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from ..graphs.quantization.scheme import Scheme
from ..runtime.memory import cache_bytes
from ..runtime.sizes import bits_per_weight, format_bytes

_QUANTS, _TOKENS = ("int8", "int4-rtn"), 4096
_OF_BITS = ("int8", "int8-small", "int4", "int4-small")
_SMALL = "smollm2-135m"


def geometry_lines() -> list[str]:
    """The section of known geometries."""
    small = GEOMETRIES[_SMALL]
    share, codes, block = share_of_head(small), codes_bits(small), block_of(small)
    return [
        "## Known geometries",
        "",
        "The sizes of these are known. `tests/export/test_known_models.py` compares the",
        "parameters with those of transformers' model and with a count that a publisher, the",
        "Hugging Face Hub or a library states, and names who states it. Those of a model that",
        "also reads images are the text model's; a head tied to the embedding counts once.",
        "`make synthetic GEOMETRY=NAME` writes random weights of that size, and",
        "`make bench-export` exports them. Only the sizes are checked, unless the model is also",
        "in the first table.",
        "",
        "Bytes are those that `tramontane inspect NAME` plans for `ort`: of the weights, of the",
        f"KV cache after {_TOKENS} tokens, and the RAM to run with it. The cache of a layer with",
        "a window has a fixed size, the window and an eighth, and is allocated whole.",
        "",
        *table(
            ("geometry", "parameters", *_QUANTS, "KV cache", *(f"RAM, {q}" for q in _QUANTS)),
            [_sizes(name, config) for name, config in GEOMETRIES.items()],
        ),
        "",
        "### Bits per weight",
        "",
        "Of all files of weights, over the parameters: codes, scales, zero points and norms.",
        "These recipes keep the head in 8 bits, and with it an embedding that is also the head.",
        f"Of {_SMALL} that is {share:.0%} of the parameters: the codes of `int4` alone",
        f"take {codes:.2f} bits a weight, and {block} weights share a scale, since 128 does not",
        f"divide its {small.hidden_size} columns. For 5.0 bits a weight there,",
        "`make export QUANT=auto BITS=5` chooses the bits of each matrix, with the least expected",
        "KL.",
        "",
        *table(
            ("geometry", "embedding is the head", *_OF_BITS),
            [_bits(name, config) for name, config in GEOMETRIES.items()],
        ),
    ]


def share_of_head(config: MistralConfig) -> float:
    """Parameters of the head, of all; one that is also the embedding counts once."""
    return config.vocab_size * config.hidden_size / config.num_parameters


def codes_bits(config: MistralConfig, *, bits: int = 4, of_head: int = 8) -> float:
    """Bits of the codes alone, over the parameters, where embedding and head are one matrix."""
    sizes = {name: shape for name, shape in parameters(config).items() if len(shape) == 2}
    head = sizes[HEAD][0] * sizes[HEAD][1]
    layers = sum(rows * columns for name, (rows, columns) in sizes.items() if "layers." in name)
    return (layers * bits + head * of_head) / config.num_parameters


def block_of(config: MistralConfig) -> int:
    """Weights that share a scale of a matrix that reads hidden states."""
    return Scheme(bits=4, block=DEFAULT_BLOCK).fitted(config.hidden_size).block


def _sizes(name: str, config: MistralConfig) -> tuple[str, ...]:
    """One row of the table of geometries."""
    cache = cache_bytes(
        plan(config, quant=_QUANTS[0], target="ort").memory,
        geometry_of(config, WINDOWED),
        min(_TOKENS, config.max_position_embeddings),
    )
    planned = [plan(config, quant=quant, target="ort").memory for quant in _QUANTS]
    return (
        name,
        f"{config.num_parameters:,}".replace(",", " "),
        *(format_bytes(one.weights_bytes) for one in planned),
        format_bytes(cache),
        *(format_bytes(one.needed(cache)) for one in planned),
    )


def _bits(name: str, config: MistralConfig) -> tuple[str, ...]:
    """One row of the table of bits per weight."""
    planned = [plan(config, quant=quant, target="ort").memory for quant in _OF_BITS]
    bits = (bits_per_weight(one.weights_bytes, config.num_parameters) for one in planned)
    tied = "yes" if config.tie_word_embeddings else ""
    return (name, tied, *(f"{one:.2f}" for one in bits))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
