"""The driver: decodes from an artifact with numpy, onnxruntime and sentencepiece alone.

``Model.load(folder)`` opens an artifact; ``model.session()`` begins a sequence of tokens with its
KV cache. Errors are ``ContractError``; a size of memory that is none is a ``ConfigError``. The
logger is ``tramontane.runtime`` of ``logging``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decoding.async_generation import AsyncGeneration as AsyncGeneration
    from .decoding.batch_generation import BatchGeneration as BatchGeneration
    from .decoding.generation import Generation as Generation
    from .decoding.history import History as History
    from .decoding.logprobs import TokenLogprobs as TokenLogprobs
    from .decoding.result import Result as Result
    from .decoding.sampler import Sampler as Sampler
    from .errors import ConfigError as ConfigError
    from .errors import ContractError as ContractError
    from .memory import MemoryPlan as MemoryPlan
    from .model import Model as Model
    from .sequences.snapshot import Snapshot as Snapshot
    from .session import Session as Session
    from .tokenizers.tokenizer import Tokenizer as Tokenizer

_HOMES = {
    "AsyncGeneration": "decoding.async_generation",
    "BatchGeneration": "decoding.batch_generation",
    "ConfigError": "errors",
    "ContractError": "errors",
    "Generation": "decoding.generation",
    "History": "decoding.history",
    "MemoryPlan": "memory",
    "Model": "model",
    "Result": "decoding.result",
    "Sampler": "decoding.sampler",
    "Session": "session",
    "Snapshot": "sequences.snapshot",
    "TokenLogprobs": "decoding.logprobs",
    "Tokenizer": "tokenizers.tokenizer",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported late, so that reading only the contract does not load onnxruntime.
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__"]
