"""Finds a model's tensors among the names in its files, whatever wrapper saved them.

PyTorch's wrappers put segments before or into the names of tensors: ``_orig_mod`` (compile),
``module`` (data parallel), ``_fsdp_wrapped_module``, ``base_model.model`` (PEFT),
``language_model`` (models of images and text). A base model's names have no ``model.``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...runtime.errors import CheckpointError
from .tensor_names import HEAD, Naming

# These occur inside names too; no name of a format has such a segment.
_INNER = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}
# Buffers that a model computes anew when it is loaded.
_RECOMPUTED = {
    "inv_freq",
    "original_inv_freq",
    "cos_cached",
    "sin_cached",
    "_cos_cached",
    "_sin_cached",
    "masked_bias",
}
_RECOMPUTED_WHOLE = ("rope.freqs", "rope_freqs.weight")  # the latter is read with GGUF's keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Names of tensors as the files have them."""

    published: Mapping[str, str]  # by parameter; a tied head has one if the files do
    beside: Mapping[str, str]  # by name without wrappers: the others, recomputed buffers left out
    prefix: str  # of all layers, wrappers inside names left out

    def beside_weight(self, parameter: str, ending: str) -> str | None:
        """The tensor whose name has another ending than the parameter's ``weight``."""
        return self.beside.get(plain(self.published[parameter]).removesuffix("weight") + ending)


def plain(name: str) -> str:
    """A name without the segments that wrappers put inside names.

    >>> plain("model.layers.0._orig_mod.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _INNER)


def find_names(
    found: Iterable[str],
    naming: Naming,
    parameters: Iterable[str],
    *,
    is_tied: bool,
    where: str,
    described_in: str,
) -> Names:
    """Find each parameter's tensor.

    Args:
        found: names in the files.
        naming: how the format names them.
        parameters: of ``Mistral``, the head included.
        is_tied: whether the head may be missing.
        where: the folder or file, as messages name it.
        described_in: what the model's description was read from.

    Raises:
        CheckpointError: tensors are missing, or there are several under different prefixes.
    """
    by_plain = _by_plain_name(found, where)
    tails = {name: naming.published(name).removeprefix(naming.body) for name in parameters}
    head = tails.pop(HEAD)
    prefix = _prefix(by_plain, set(tails.values()), usual=naming.body, where=where)
    expected = {parameter: prefix + tail for parameter, tail in tails.items()}
    heads = [one for one in (p + head for p in _parents(prefix)) if one in by_plain]
    if len(heads) > 1:
        raise CheckpointError(
            f"{where}: {heads[0]} and {heads[1]} are both there, expected one head; remove the "
            "one that is not meant"
        )
    if heads or not is_tied:
        expected[HEAD] = heads[0] if heads else naming.published(HEAD)
    missing = sorted(name for name in expected.values() if name not in by_plain)
    if missing == [expected.get(HEAD)]:
        raise CheckpointError(
            f"{where}: {missing[0]} is missing and all others are there, expected the head too, "
            f"since {described_in} does not tie it to the embedding; save the model from "
            "AutoModelForCausalLM, or set tie_word_embeddings to true there if the head is the "
            "embedding"
        )
    if missing:
        raise CheckpointError(f"{where}: {_missing(missing, by_plain, described_in)}")
    used = set(expected.values())
    return Names(
        published={parameter: by_plain[name] for parameter, name in expected.items()},
        beside={
            name: own
            for name, own in by_plain.items()
            if name not in used and not _is_recomputed(name)
        },
        prefix=prefix,
    )


def _by_plain_name(found: Iterable[str], where: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in found:
        if (other := names.setdefault(plain(name), name)) is not name:
            raise CheckpointError(
                f"{where}: {other} and {name} are one tensor by their names, expected it once; "
                "remove the one that is not meant"
            )
    return names


def _prefix(names: Iterable[str], tails: set[str], *, usual: str, where: str) -> str:
    """What stands before the names of all tensors but the head; the likeliest if none does."""
    counts = Counter(filter(lambda prefix: prefix is not None, (_cut(n, tails) for n in names)))
    whole = sorted(str(prefix) for prefix, count in counts.items() if count == len(tails))
    if len(whole) > 1:
        raise CheckpointError(
            f"{where}: holds the model {len(whole)} times, its tensors begin with "
            f"{' and with '.join(repr(prefix) for prefix in whole)}, expected it once; "
            "remove the others"
        )
    if whole:
        return whole[0]
    return str(max(counts, key=lambda prefix: counts[prefix])) if counts else usual


def _cut(name: str, tails: set[str]) -> str | None:
    """The shortest prefix after which a name is one of the model's; None if there is none."""
    start = 0
    while name[start:] not in tails:
        start = name.find(".", start) + 1
        if not start:
            return None
    return name[:start]


def _parents(prefix: str) -> list[str]:
    """A prefix, and what is left of it without its last segments.

    >>> _parents("base_model.model.")
    ['', 'base_model.', 'base_model.model.']
    """
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:end]) for end in range(len(parts) + 1)]


def _missing(missing: list[str], names: Mapping[str, str], described_in: str) -> str:
    for own in names.values():
        if ".lora_" in own or ".base_layer." in own:
            return (
                f"{own} belongs to a LoRA adapter that is not merged, expected the merged model; "
                "merge it (merge_and_unload of PEFT), or name the base model and the adapter's "
                "own folder with --adapter"
            )
    start = missing[0].partition(".")[0]
    others = [own for name, own in sorted(names.items()) if name.partition(".")[0] != start]
    others.sort(key=lambda own: not own.endswith(missing[0]))  # the same under another prefix
    seen = f" (other tensors there: {others[0]}, ...)" if others else ""
    return (
        f"{missing[0]} is missing ({len(missing)} missing in all), expected what {described_in} "
        f"implies{seen}; check that both are of one model"
    )


def _is_recomputed(name: str) -> bool:
    return name.rpartition(".")[2] in _RECOMPUTED or name.endswith(_RECOMPUTED_WHOLE)
