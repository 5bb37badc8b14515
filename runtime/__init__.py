"""The driver: decodes from an artifact with numpy, onnxruntime and sentencepiece alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import Model as Model
    from .sampling import Sampler as Sampler
    from .session import Session as Session


def __getattr__(name: str) -> Any:
    # Imported late, so that reading only the contract does not load onnxruntime.
    if name == "Model":
        from .model import Model

        return Model
    if name == "Session":
        from .session import Session

        return Session
    if name == "Sampler":
        from .sampling import Sampler

        return Sampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
