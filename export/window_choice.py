"""The windows that an export asks for in place of the checkpoint's: ``--window``. (no torch)"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..runtime.cache import by_layer
from ..runtime.errors import ConfigError
from .architectures.all_architectures import architecture_of
from .config import MistralConfig, Windows, repeated

# One window for all layers, or a pattern that is repeated over them.
WindowChoice = int | Windows
_NONE = "none"


def parse_window(text: str) -> WindowChoice:
    """The value of ``--window``.

    Raises:
        ValueError: it is neither a number nor a list of numbers and ``none``.

    >>> parse_window("4096"), parse_window("none,4096")
    (4096, (None, 4096))
    """
    parts = [part.strip() for part in text.split(",")]
    windows = tuple(None if part == _NONE else int(part) for part in parts)
    return windows if len(windows) > 1 or windows[0] is None else windows[0]


def window_as_text(window: WindowChoice) -> str:
    """The same as it is given.

    >>> window_as_text((None, 4096))
    'none,4096'
    """
    each = (window,) if isinstance(window, int) else window
    return ",".join(_NONE if one is None else str(one) for one in each)


def adapted(config: MistralConfig, *, window: WindowChoice | None) -> MistralConfig:
    """The architecture with other windows; a Llama that gets a window is a Mistral.

    Raises:
        ConfigError: a window is none, or more than the checkpoint's or than the positions that the
            model has; a pattern does not fit the layers.
    """
    if window is None:
        return config
    flag = f"--window {window_as_text(window)}"
    if isinstance(window, int) and config.layer_windows:
        raise ConfigError(
            f"{flag}: the checkpoint's layers have windows of their own, "
            f"{by_layer(config.windows, none=_NONE)}; leave --window out"
        )
    pattern = (window,) if isinstance(window, int) else window
    if config.num_hidden_layers % len(pattern):
        raise ConfigError(
            f"{flag}: {len(pattern)} windows for {config.num_hidden_layers} layers, expected a "
            "pattern that repeats to as many, or one number for all"
        )
    windows = repeated(pattern, config.num_hidden_layers)
    if windows != config.other_windows:
        _refuse_larger(flag, config, windows)
    config = config.with_windows(windows)
    return dataclasses.replace(config, architecture=architecture_of(config).name)


def refuse_two_patterns(config: MistralConfig) -> None:
    """Refuse a checkpoint whose two descriptions have different windows; ``adapted`` decides.

    Raises:
        ConfigError: naming the flag that decides.
    """
    if config.other_windows:
        own, other = (shortest(each) for each in (config.windows, config.other_windows))
        raise ConfigError(
            f"config.json gives the layers windows of {by_layer(own, none=_NONE)}, and "
            f"params.json beside it {by_layer(other, none=_NONE)}, expected the same; give "
            f"--window {window_as_text(other)} for those of params.json, which Mistral's own "
            f"program reads, or --window {window_as_text(own)} for those of config.json"
        )


def shortest(windows: Sequence[int | None]) -> Windows:
    """The shortest pattern that repeats to these.

    >>> shortest([None, 8, None, 8]), shortest([8, 8])
    ((None, 8), (8,))
    """
    count = len(windows)
    sizes = (size for size in range(1, count + 1) if count % size == 0)
    return next(
        tuple(windows[:size])
        for size in sizes
        if repeated(tuple(windows[:size]), count) == tuple(windows)
    )


def _refuse_larger(flag: str, config: MistralConfig, windows: Windows) -> None:
    for window, trained in zip(windows, config.windows, strict=True):
        if window is not None and not 1 <= window <= config.max_position_embeddings:
            raise ConfigError(
                f"{flag}: expected 1 to {config.max_position_embeddings}, "
                "the positions that the model has"
            )
        if trained is not None and (window is None or window > trained):
            raise ConfigError(
                f"{flag}: the checkpoint's window is {trained}, expected at most that: a larger "
                "one reads keys further back than the model was trained on; leave --window out"
            )
