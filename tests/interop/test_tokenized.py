"""Tests of the checkpoints with other tokenizers: the export and transformers read them alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.published_tokenizer.probe_texts import around
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.interop.tokenized import ADDED, ADDED_TOKENS, CHAT, MAKERS, make_checkpoint
from tramontane.runtime.tokenizers.vocabulary import SENTENCEPIECE, TOKENIZERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MAKERS)
def test_such_a_checkpoint_has_its_added_tokens_and_a_template(
    name: str, stdlib_5m: Path, tmp_path: Path
) -> None:
    made = make_checkpoint(name, stdlib_5m, tmp_path / "model")
    checkpoint = Checkpoint.open(made)
    tokenizer = CheckpointTokenizer.read(checkpoint)
    assert tokenizer.vocabulary.kind == (SENTENCEPIECE if name == ADDED_TOKENS else TOKENIZERS)
    assert tokenizer.vocabulary.add_bos_token
    ids = [tokenizer.codec.find(text) for text in ADDED[name]]
    assert None not in ids
    assert max(one for one in ids if one is not None) < checkpoint.config.vocab_size
    theirs = transformers.AutoTokenizer.from_pretrained(made)
    for text in around(ADDED[name]):
        if not text.startswith("a"):  # transformers puts no space in front of a Mistral's text
            wanted = theirs(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.codec.encode(text, allow_special=True) == wanted, text
    chat = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>assistant\n")


def test_the_same_checkpoint_is_made_again(stdlib_5m: Path, tmp_path: Path) -> None:
    one, other = (
        make_checkpoint("byte-level", stdlib_5m, tmp_path / name) for name in ("one", "other")
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
