"""Tests of examples/web/text.js in Node: it streams the text that the driver streams."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Whole
from tokenizers import decoders
from tramontane.runtime.manifest import Vocabulary
from tramontane.runtime.tokenizers.byte_alphabet import BYTES, SPELLED
from tramontane.runtime.tokenizers.detokenizer import Detokenizer
from tramontane.runtime.tokenizers.hugging_face import HuggingFace
from tramontane.runtime.tokenizers.tokenizer import Tokenizer

from .tiny_tokenizers import like_sentencepiece, llama_3, non_special

TEXT_JS = Path(__file__).parents[1] / "examples" / "web" / "text.js"
VOCABULARY = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
TEXTS = ("naïve café", "日本語のテキスト", "👩\u200d👩\u200d👧 ok", "𐍈a\u00adb\x7f", "def f(x):\n")

# The package of the page is not in the repository; this decodes pieces as its decoders do.
STREAM = """
import { readFileSync } from "node:fs";
const source = readFileSync(process.argv[1]); // as a module, whatever the file's name
const module = `data:text/javascript;base64,${source.toString("base64")}`;
const { Detokenizer, Text } = await import(module);
const job = JSON.parse(readFileSync(0, "utf8"));
const bytes = new Map(job.alphabet);
const added = new Set(job.tokenizer.added_tokens.map((one) => one.content));
class Tokenizer {
  id_to_token(id) { return job.pieces[id] ?? undefined; }
  decode(ids) {
    const found = [];
    for (const id of ids) {
      const piece = job.pieces[id];
      const [, hex] = piece.match(/^<0x(..)>$/) ?? [];
      if (hex && !job.isByteLevel) found.push(Number.parseInt(hex, 16));
      else if (added.has(piece) || !job.isByteLevel)
        found.push(...Buffer.from(piece.replaceAll("\\u2581", " ")));
      else found.push(...Array.from(piece, (one) => bytes.get(one)));
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(found));
  }
}
const text = new Text(Tokenizer, [job.tokenizer, job.settings], {});
const stream = new Detokenizer(text, job.prompt);
const parts = job.tokens.map((id) => stream.push(id));
console.log(JSON.stringify([...parts, stream.flush()]));
"""

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")


def in_node(
    whole: Whole, tokens: Sequence[int], prompt: Sequence[int], settings: dict[str, Any]
) -> list[str]:
    content = json.loads(whole.to_str())
    job = {
        "tokenizer": content,
        "settings": settings,
        "pieces": [whole.id_to_token(one) for one in range(whole.get_vocab_size())],
        "alphabet": list(BYTES.items()),
        "isByteLevel": isinstance(whole.decoder, decoders.ByteLevel),
        "tokens": list(tokens),
        "prompt": list(prompt),
    }
    done = subprocess.run(
        ["node", "--input-type=module", "-e", STREAM, "--", TEXT_JS],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parts: list[str] = json.loads(done.stdout)
    return parts


def in_driver(whole: Whole, tokens: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    codec = HuggingFace(whole.to_str().encode())
    detokenizer = Detokenizer(Tokenizer(codec, VOCABULARY, path=Path("tokenizer.json")), prompt)
    return [*(detokenizer.push(one) for one in tokens), detokenizer.flush()]


def streamed(whole: Whole, tokens: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    return in_node(whole, tokens, prompt, {})


@pytest.fixture(scope="module")
def byte_level() -> Whole:
    found = llama_3()
    found.add_tokens([non_special("def_of")])
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_tokens_give_whole_characters_as_the_driver_does(
    byte_level: Whole, text: str
) -> None:
    prompt = byte_level.encode("x = ", add_special_tokens=False).ids
    tokens = byte_level.encode(text, add_special_tokens=False).ids
    found = streamed(byte_level, tokens, prompt)
    assert "".join(found) == text
    assert "\ufffd" not in "".join(found)
    assert found == in_driver(byte_level, tokens, prompt)


def test_special_tokens_add_no_text_and_cut_no_character(byte_level: Whole) -> None:
    halves = byte_level.encode("é日", add_special_tokens=False).ids
    end, plain = (byte_level.token_to_id(one) for one in ("<|im_end|>", "def_of"))
    tokens = [end, halves[0], end, *halves[1:], plain, end]
    found = streamed(byte_level, tokens)
    assert "".join(found) == "é日def_of"
    assert found == in_driver(byte_level, tokens)


def test_half_of_a_character_at_the_end_is_shown_as_lost(byte_level: Whole) -> None:
    halves = [byte_level.token_to_id(SPELLED[one]) for one in "日".encode()]
    assert streamed(byte_level, halves[:2]) == ["", "", "\ufffd"]
    assert streamed(byte_level, halves) == ["", "", "日", ""]


def test_tokens_that_only_the_settings_or_the_model_have_add_no_text(byte_level: Whole) -> None:
    letter = byte_level.token_to_id("a")
    beyond = byte_level.get_vocab_size() + 5
    hidden = byte_level.token_to_id("b")
    settings = {"added_tokens_decoder": {str(hidden): {"content": "b", "special": True}}}
    found = in_node(byte_level, [letter, beyond, hidden, letter], [], settings)
    assert found == ["a", "", "", "a", ""]


def test_byte_pieces_are_joined_as_before() -> None:
    whole = like_sentencepiece()
    bytes_of = [whole.token_to_id(f"<0x{one:02X}>") for one in "é日".encode()]
    assert streamed(whole, bytes_of) == ["", "é", "", "", "日", ""]
