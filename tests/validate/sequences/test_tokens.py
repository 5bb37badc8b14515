"""Do lengths and pieces go where windows and caches may go wrong?"""

from __future__ import annotations

import os
import threading
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tramontane.console import text_file
from tramontane.console.text_file import read_text
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.errors import ConfigError
from tramontane.validate.sequences.tokens import TokenText, chunks, random_tokens, spans, turns

SMALL, LARGE = [CacheLayout(window=64, rows=80)], [CacheLayout(window=4096, rows=4608)]
GROWING = [CacheLayout(window=None, rows=None)]


def test_lengths_straddle_the_window_and_go_three_windows_far() -> None:
    assert spans(SMALL, positions=4096).lengths == (1, 63, 64, 65, 192, 1024)
    assert spans(LARGE, positions=32768, thorough=True).longest == 3 * 4096
    assert spans(SMALL, positions=100).longest == 100  # as far as positions go


def test_a_large_window_is_crossed_with_an_eviction_and_no_more() -> None:
    found = spans(LARGE, positions=32768)
    assert LARGE[0].first(found.longest) > 0
    assert found.longest < 1.3 * 4096
    assert found.one_shot == {"text": (1, 4095, 4096, 5129), "random": (1, 4097, 5129)}
    assert found.shared == 4095
    for start, end in found.stepped.values():
        assert 4000 < start < 4608 < end <= found.longest


def test_small_windows_are_stepped_through_on_text_and_across_an_eviction_on_random_tokens() -> (
    None
):
    assert spans(SMALL, positions=4096).stepped == {"text": (0, 192), "random": (16, 144)}
    assert spans(SMALL, positions=4096, thorough=True).stepped["random"] == (0, 1024)
    assert spans(SMALL, positions=2).stepped["random"] == (1, 2)


@pytest.mark.parametrize("layout", [SMALL, LARGE])
def test_a_greedy_continuation_crosses_the_window(layout: list[CacheLayout]) -> None:
    found, window = spans(layout, positions=32768), layout[0].window
    assert window is not None
    assert found.greedy_prompt < window < found.greedy_prompt + found.greedy_steps
    assert spans(SMALL, positions=4096).greedy_steps == 4 * 64


def test_chunks_straddle_the_edge_and_an_eviction() -> None:
    sizes = chunks(SMALL, 200)
    assert sum(sizes) == 200
    assert {63, 65, 79, 80, 82, 98} <= set(accumulate(sizes))


def test_layers_that_differ_are_measured_at_the_edges_of_each() -> None:
    tiny, full = CacheLayout(window=8, rows=24), CacheLayout(window=None, rows=None)
    found = spans([tiny, *SMALL, full, tiny], positions=4096)
    each = [spans([layout], positions=4096) for layout in (tiny, *SMALL)]
    assert set(found.lengths) == {length for one in each for length in one.lengths}
    assert {7, 8, 9, 63, 64, 65} < set(found.lengths)
    for source in ("text", "random"):
        start, end = found.stepped[source]
        assert all(start <= one.stepped[source][0] for one in each)
        assert all(end >= one.stepped[source][1] for one in each)
    assert found.greedy_steps == 4 * 64
    cuts = set(accumulate(chunks([tiny, *SMALL], 200)))
    assert {7, 9, 23, 24, 26, 63, 65, 79, 80, 82} <= cuts
    prompts = [size for size in turns([tiny, *SMALL], 400) if size > 1]
    assert prompts[:6] == [4, 6, 29, 32, 48, 85]


@pytest.mark.parametrize(
    ("layout", "length"), [(SMALL, 40), (SMALL, 400), (GROWING, 400), (LARGE, 5129)]
)
def test_turns_are_prompts_and_single_tokens_of_that_length(
    layout: list[CacheLayout], length: int
) -> None:
    sizes = turns(layout, length)
    assert sum(sizes) == length
    assert min(sizes) == 1
    assert max(sizes) > 1


def test_text_becomes_the_tokens_of_sentencepiece_and_goes_round(stdlib_5m: Path) -> None:
    words = TokenText(Checkpoint.open(stdlib_5m))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(stdlib_5m / "tokenizer.model"))
    expected = pieces.encode("def f(x): return x")
    found = words.tokens("def f(x): return x", 40).tolist()
    assert found[-len(expected) :] == expected or found[1 : len(expected) + 1] == expected
    assert len(found) == 40
    assert words.tokens("def f(x): return x", 9, skipped=2).tolist()[:3] == found[2:5]


def test_random_tokens_are_those_of_their_seed() -> None:
    np.testing.assert_array_equal(random_tokens(99, 7, seed=3), random_tokens(99, 7, seed=3))
    assert (random_tokens(99, 7, seed=3) != random_tokens(99, 7, seed=4)).any()


def test_a_text_that_is_not_there_or_not_utf8_is_refused_by_its_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--text .*missing.txt"):
        read_text(tmp_path / "missing.txt", flag="--text")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="name a UTF-8 text file"):
        read_text(tmp_path / "bytes", flag="--text")
    with pytest.raises(ConfigError, match="--text a\\\\x00: .*; name a UTF-8 text file"):
        read_text(Path("a\0"), flag="--text")


def test_a_text_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "_MOST_BYTES", 1 << 20)
    with pytest.raises(ConfigError, match=r"--text /dev/zero: it is larger than 1\.05 MB; name"):
        read_text(Path("/dev/zero"), flag="--text")


def test_a_text_comes_through_a_pipe_and_line_breaks_are_as_python_reads_them(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"a\r\nb\rc",))
    writer.start()
    assert read_text(tmp_path / "pipe", flag="--text") == "a\nb\nc"
    writer.join()
