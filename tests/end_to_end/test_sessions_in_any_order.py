"""Random sequences of a session's calls against one plain run of onnxruntime on all tokens.

Every call that gives logits is compared with those of the graph run once, on an empty cache, with
the whole sequence that the calls should have made: nothing of the driver takes part in that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.stateful as st
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as draw
from tramontane.export.build import export_checkpoint
from tramontane.export.options import ExportOptions
from tramontane.runtime import Model, Sampler, Session, Snapshot
from tramontane.runtime.contract import MODEL_FILE, empty_cache_shapes
from tramontane.runtime.decoding.history import History
from tramontane.runtime.decoding.processors import Logits
from tramontane.runtime.errors import ContractError

from ..runtime.speculation.free_runs import Free
from .test_int8_cache import LOGITS_TOLERANCE

V, LONGEST = 2048, 150  # tokens of a sequence: many evictions of 24 rows
BOUND = 1e-4  # largest |difference| of two float32 logits
EXAMPLES, CALLS = 12, 25  # random sequences of calls, and calls of each

# A part of the vocabulary, so that prompts share prefixes and texts repeat themselves.
FEW = slice(3, 10)
TOKENS = draw.lists(draw.integers(FEW.start, FEW.stop - 1), min_size=1, max_size=40)


def one_of_few(logits: Logits, _: History) -> Logits:
    """Rule out all other tokens."""
    kept = np.full_like(logits, -np.inf)
    kept[FEW] = logits[FEW]
    return kept


class Calls(st.RuleBasedStateMachine):
    """Calls of a session, and the tokens that its sequence should have; subclasses have a model."""

    model: Model
    bound: float
    graph: onnxruntime.InferenceSession

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[int] = []
        self.session: Session
        self.snapshots: list[tuple[Snapshot, list[int]]] = []

    @st.initialize(keep=draw.sampled_from([0, 0, 1, 20]))
    def begin(self, keep: int) -> None:
        self.use(self.model.session(keep=keep))

    def use(self, session: Session) -> None:
        """Go on in a session, which makes all drafts that it can where ``speculate`` is asked for."""
        self.session = session
        session._guarded._run_times = Free()

    def expected(self) -> np.ndarray:
        """Logits (T, V) after each token, by onnxruntime alone."""
        geometry = self.model.manifest.geometry
        cache = {
            name: np.zeros(shape, geometry.cache_dtype)
            for name, shape in empty_cache_shapes(geometry)
        }
        ids = np.array([self.ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), **cache}
        return np.asarray(self.graph.run(["logits"], feed)[0][0])

    def check(self, logits: np.ndarray) -> None:
        """Compare logits (n, V) of the last tokens."""
        assert np.abs(logits - self.expected()[-len(logits) :]).max() <= self.bound

    def fits(self, count: int) -> bool:
        return len(self.ids) + count <= LONGEST

    @st.rule(tokens=TOKENS, chunk=draw.sampled_from([1, 3, 7, 24, None]))
    def append(self, tokens: list[int], chunk: int | None) -> None:
        if self.fits(len(tokens)):
            self.ids += tokens
            self.check(self.session.prefill(tokens, all_logits=True, chunk=chunk))

    @st.rule(token=draw.integers(3, 9), count=draw.integers(1, 40))
    def step(self, token: int, count: int) -> None:
        if self.fits(count):
            for number in range(count):
                self.ids.append(token + number % 3)
                logits = self.session.step(self.ids[-1])
            self.check(logits[None])

    @st.rule(share=draw.sampled_from([0, 0.3, 1, 1, 1]), token=draw.integers(3, 9))
    def rewind(self, share: float, token: int) -> None:
        count = round(share * self.session.rewindable)
        self.session.rewind(count)
        self.ids = [*self.ids[: len(self.ids) - count], token]
        self.check(self.session.step(token)[None])

    @st.precondition(lambda self: self.session.rewindable + 1 < self.session.tokens)
    @st.rule()
    def rewind_too_far(self) -> None:
        with pytest.raises(ContractError, match="take back at most"):
            self.session.rewind(self.session.rewindable + 1)

    @st.rule()
    def snapshot(self) -> None:
        self.snapshots.append((self.session.snapshot(), [*self.ids]))

    @st.precondition(lambda self: self.snapshots)
    @st.rule(data=draw.data())
    def restore(self, data: Any) -> None:
        number = data.draw(draw.integers(0, len(self.snapshots) - 1))
        snapshot, ids = self.snapshots[number]
        self.session.restore(snapshot)
        self.ids = [*ids]

    @st.precondition(lambda self: self.snapshots)
    @st.rule()
    def drop_a_snapshot(self) -> None:
        self.snapshots.pop(0)

    @st.rule(keep=draw.sampled_from([0, 5]))
    def save_and_load(self, keep: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.session.save(Path(folder) / "state")
            self.session.close()
            self.use(Session.load_state(Path(folder) / "state", self.model, keep=keep))

    @st.rule(share=draw.floats(0, 1), tokens=TOKENS)
    def reuse(self, share: float, tokens: list[int]) -> None:
        shared = round(share * len(self.ids))
        prompt = [*self.ids[:shared], *tokens]
        if len(prompt) <= LONGEST:
            self.ids = prompt
            self.check(self.session.prefill(prompt, all_logits=True, reuse=True))

    @st.rule(
        tokens=TOKENS,
        count=draw.sampled_from([0, 1, 9, 40, 80]),
        reuse=draw.booleans(),
        speculate=draw.booleans(),
    )
    def generate(self, tokens: list[int], count: int, *, reuse: bool, speculate: bool) -> None:
        prompt = [*self.ids, *tokens] if reuse else tokens
        if not self.fits(len(tokens) + count):
            return
        made = (
            self.session.generate(
                prompt,
                max_new_tokens=count,
                reuse=reuse,
                speculate=speculate,
                sampler=Sampler(processors=[one_of_few]),
            )
            .finish()
            .tokens
        )
        before = len(self.ids) + len(tokens)
        self.ids += [*tokens, *made]
        if made:
            logits = self.expected()[before - 1 : -1]
            chosen = logits[np.arange(len(made)), made]
            best = logits[:, FEW].max(axis=1)
            assert (chosen >= best - 2 * self.bound).all()  # the likeliest of these

    @st.rule()
    def reset(self) -> None:
        self.session.reset()
        self.ids = []

    @st.invariant()
    def count(self) -> None:
        if hasattr(self, "session"):
            assert self.session.tokens == len(self.ids)
            assert self.session.ids == self.ids

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.session.close()


RECIPES: dict[str, tuple[dict[str, Any], float]] = {
    "windowed": ({}, BOUND),
    "growing": ({"cache": "growing"}, BOUND),
    "int8": ({"kv": "int8"}, LOGITS_TOLERANCE),
    "portable": ({"target": "portable"}, BOUND),
    "two windows": ({"window": (4, 8)}, BOUND),
    "windowed and full": ({"window": (8, None)}, BOUND),
}


@pytest.fixture(scope="module")
def machine(
    two_layers: Path,
    tiny_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], type[Calls]]:
    """The calls of a session of a recipe."""

    def make(recipe: str) -> type[Calls]:
        options, bound = RECIPES[recipe]
        out = tmp_path_factory.mktemp("any_order") / "artifact"
        asked = {"quant": "fp32", "target": "ort", **options}
        by_layer = "window" in options
        checkpoint = tiny_checkpoint(sliding_window=None) if by_layer else two_layers
        export_checkpoint(checkpoint, out, ExportOptions(**asked))
        graph = onnxruntime.InferenceSession(out / MODEL_FILE, providers=["CPUExecutionProvider"])
        model = Model.load(out, threads=1)
        return type("Calls", (Calls,), {"model": model, "bound": bound, "graph": graph})

    return make


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_any_order_of_calls_gives_what_a_plain_run_gives(
    machine: Callable[[str], type[Calls]], recipe: str
) -> None:
    st.run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine(recipe),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=CALLS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
