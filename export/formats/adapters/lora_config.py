"""Reads PEFT's adapter_config.json, and refuses what is no plain LoRA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....runtime.errors import ConfigError
from ....runtime.untrusted.fields import shown
from ...files.held_files import HeldFile
from ...files.metadata_fields import flag, number, read_json_object

CONFIG_FILE = "adapter_config.json"
MERGE = "merge it with PEFT (merge_and_unload), save the merged model and export that"
# Fields that change nothing in the merged weights, or that are read below. ``fan_in_fan_out`` is
# for layers that store their weights transposed, which this family has none of; PEFT ignores it.
# Every other field must have no value.
# Source: PEFT 0.21, tuners/lora/config.py.
_KNOWN = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
# Other ways to begin change the base model's weights when the adapter is loaded.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
_REPETITION = re.compile(r"[*+]|\{\d*,\d*\}")
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]|\(\?(?!:)")  # also flags, comments and conditions
_MOST_REPETITIONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """What decides how an adapter's matrices are added."""

    rank: int
    alpha: float
    is_rank_stabilized: bool
    rank_pattern: Mapping[str, int]  # by a pattern of the module's name
    alpha_pattern: Mapping[str, float]
    modules_to_save: tuple[str, ...]  # modules that are the adapter's own

    def rank_of(self, module: str) -> int:
        """Rank of one module's adapter."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """Factor on the product of the two matrices."""
        alpha = self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / rank**0.5 if self.is_rank_stabilized else alpha / rank

    def saves(self, module: str) -> bool:
        """Whether a module is the adapter's own, not the base model's."""
        return any(module == own or module.endswith(f".{own}") for own in self.modules_to_save)


def read_lora_config(file: HeldFile) -> LoraConfig:
    """Read how an adapter is merged.

    Raises:
        ConfigError: it is not JSON, a field is of another kind, or the adapter is no plain LoRA
            (named in the message).
    """
    published = read_json_object(file)
    try:
        return _parse(published)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error.__cause__


def base_model_of(folder: Path) -> str | None:
    """The base model that a folder's adapter names; None where there is no adapter."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    name = read_json_object(path).get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _parse(published: dict[str, Any]) -> LoraConfig:
    kind, begin = published.get("peft_type"), published.get("init_lora_weights")
    if kind != "LORA":
        raise ConfigError(f"peft_type is {shown(kind)}, expected 'LORA'; {MERGE}")
    if published.get("bias") not in (None, "none"):
        raise ConfigError(f"bias is {shown(published['bias'])}, expected 'none'; {MERGE}")
    if not any(begin is plain or begin == plain for plain in _PLAIN_BEGINNINGS):
        raise ConfigError(
            f"init_lora_weights is {shown(begin)}, which changes the base model's weights too, "
            f"expected a plain LoRA; {MERGE}"
        )
    for name, value in sorted(published.items()):
        if name not in _KNOWN and value not in (None, False, "", [], {}):
            raise ConfigError(
                f"{name} ({shown(value)}) is not supported, expected a plain LoRA; {MERGE}"
            )
    return LoraConfig(
        rank=_positive(number(published, "r", int), "r"),
        alpha=number(published, "lora_alpha", float),
        is_rank_stabilized=flag(published, "use_rslora"),
        rank_pattern={
            name: _positive(number({name: value}, name, int), name)
            for name, value in _patterns(published, "rank_pattern").items()
        },
        alpha_pattern={
            name: number({name: value}, name, float)
            for name, value in _patterns(published, "alpha_pattern").items()
        },
        modules_to_save=_names(published, "modules_to_save"),
    )


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ConfigError(f"{name} is {value}; expected at least 1")
    return value


def _patterns(published: dict[str, Any], name: str) -> dict[str, Any]:
    value = published.get(name) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}, expected an object")
    for pattern in value:
        try:
            re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise ConfigError(f"{name} has {shown(pattern)}, no pattern ({error})") from error
        _refuse_slow(pattern, name)
    return value


def _refuse_slow(pattern: str, name: str) -> None:
    """Refuse a pattern that a name might be compared with for hours: Python's ``re`` backtracks.

    The time grows with the length of the name to the power of the repetitions, and exponentially
    with a repeated group.
    """
    plain = _ESCAPE_OR_CLASS.sub("x", pattern)
    if len(_REPETITION.findall(plain)) > _MOST_REPETITIONS or _REPEATED_GROUP.search(plain):
        raise ConfigError(
            f"{name} has {shown(pattern)}, expected a pattern of at most {_MOST_REPETITIONS} "
            f"repetitions and no repeated group; {MERGE}"
        )


def _names(published: dict[str, Any], name: str) -> tuple[str, ...]:
    value = published.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(f"{name} is {shown(value)}; expected a list of names")
    return tuple(value)


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that a module's name ends with; the name itself where there is none.

    Source: PEFT 0.21, ``get_pattern_key``.
    """
    return next((one for one in patterns if re.match(rf"(.*\.)?({one})$", module)), module)
