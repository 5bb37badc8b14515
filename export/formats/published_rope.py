"""Reads rope from config.json, where each version of transformers describes it in another way.

``rope_theta`` and ``rope_scaling`` before version 5; since then ``rope_parameters``, flat, or an
object for each kind of layer that ``layer_types`` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...runtime.errors import ConfigError
from ...runtime.untrusted.fields import shown
from ..files.metadata_fields import number
from ..rope_parameters import KIND, KINDS, NAMES, THETA, fill_in

_FIELDS = ("rope_parameters", "rope_scaling")
_PARTIAL = "partial_rotary_factor"
# What a description may have beside the parameters of a kind, and no rope is computed from.
_BESIDE = {"type", _PARTIAL, "max_position_embeddings"}


def read_rope(
    published: Mapping[str, Any], *, default_theta: float, max_positions: int
) -> tuple[float, dict[str, Any]]:
    """Read rope's theta, and its other parameters as ``fill_in`` returns them.

    Args:
        published: ``config.json``.
        default_theta: what it means where it has none.
        max_positions: ``max_position_embeddings``.

    Raises:
        ConfigError: a kind or a parameter that is not supported, a parameter that is missing, or
            two descriptions that differ.

    Source: transformers 5.23, ``RotaryEmbeddingConfigMixin``: a kind reads its own parameters and
        ignores those of other kinds.
    """
    described = [labelled for name in _FIELDS for labelled in _descriptions(published, name)]
    theta = _theta([one for _, one in described] + [published], default_theta)
    for source in (published, *(one for _, one in described)):
        if number(source, _PARTIAL, float, 1) != 1:
            raise ConfigError(f"{_PARTIAL} (partial rotary embedding) is not supported")
    found = [
        (name, fill_in({**_with_kind(name, one), THETA: theta}, max_positions=max_positions))
        for name, one in described
        if one.keys() - {THETA, _PARTIAL}
    ]
    for name, filled in found[1:]:
        if filled != found[0][1]:
            raise ConfigError(
                f"{found[0][0]} and {name} describe two ropes, {shown(found[0][1])} and "
                f"{shown(filled)}, expected one for all layers; remove the one that is not meant"
            )
    return theta, found[0][1] if found else {}


def describes_rope(published: Mapping[str, Any]) -> bool:
    """Whether there is any description of rope, a theta alone included."""
    return any(published.get(name) is not None for name in (*_FIELDS, THETA))


def published_object(published: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read an object of a published description; a missing or null one is empty.

    Raises:
        ConfigError: it is something else.
    """
    value = published.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}, expected an object")
    return value


def _descriptions(published: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The description, or one for each kind of layer that the model has, each with its place."""
    described = published_object(published, name)
    listed = published.get("layer_types")
    kinds = listed if isinstance(listed, list) else []
    of_layers = [key for key in described if key in kinds]
    if not of_layers:
        yield name, described
    for kind in of_layers:
        if described[kind] is None:
            raise ConfigError(
                f"{name} of {kind} is null, expected parameters: layers without rope are not "
                "supported in this form"
            )
        yield f"{name}.{kind}", published_object(described, kind)


def _theta(sources: list[Any], default: float) -> float:
    found = {
        float(number(source, THETA, float)) for source in sources if source.get(THETA) is not None
    }
    if len(found) > 1:
        raise ConfigError(
            f"rope_theta is given twice and differs: {sorted(found)}, expected one number; remove "
            "the one that is not meant"
        )
    return found.pop() if found else default


def _with_kind(name: str, described: dict[str, Any]) -> dict[str, Any]:
    """The parameters, with the kind under its own name; what it is not known for is refused."""
    kinds = (described.get(KIND), described.get("type"))
    kind = next((one for one in kinds if one is not None), None)
    parameters = {n: v for n, v in described.items() if n not in _BESIDE and n != KIND}
    if kind is None:
        factor = number(described, "factor", float, 1.0)
        others = [n for n in sorted(parameters) if n not in (THETA, "factor")]
        if others or factor != 1:
            raise ConfigError(
                f"{name} has {shown((others or ['factor'])[0])} and no rope_type, expected the "
                f"kind, one of {', '.join(KINDS)}"
            )
    unknown = sorted(parameters.keys() - set(NAMES))
    if unknown and kind in KINDS:
        raise ConfigError(
            f"{name} has {shown(unknown[0])}, expected parameters of rope ({', '.join(NAMES)}): "
            "it may change the model; remove it if it does not"
        )
    return {**parameters, KIND: "default" if kind is None else kind}
