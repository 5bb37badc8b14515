"""Tests of examples/web/text.js in Node: it encodes and streams text as the driver does."""

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
from tramontane.runtime.tokenizers.byte_alphabet import BYTES, SPELLED
from tramontane.runtime.tokenizers.detokenizer import Detokenizer
from tramontane.runtime.tokenizers.hugging_face import HuggingFace
from tramontane.runtime.tokenizers.tokenizer import Tokenizer
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

from ..support.tiny_tokenizers import (
    KINDS,
    SPECIAL,
    START,
    like_sentencepiece,
    llama_3,
    non_special,
)

TEXT_JS = Path(__file__).parents[2] / "examples" / "web" / "text.js"
VOCABULARY = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
TEXTS = ("naïve café", "日本語のテキスト", "👩\u200d👩\u200d👧 ok", "𐍈a\u00adb\x7f", "def f(x):\n")

FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)

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

# The file that the page gives to the package's tokenizer for each way to encode.
GIVEN = """
import { readFileSync } from "node:fs";
const source = readFileSync(process.argv[1]);
const { Text } = await import(`data:text/javascript;base64,${source.toString("base64")}`);
const file = JSON.parse(readFileSync(0, "utf8"));
class Tokenizer {
  constructor(file) { this.file = file; }
  encode() { return { ids: [this.file] }; }
}
const text = new Text(Tokenizer, [file, {}], { add_bos_token: false });
const ways = [{}, { allowSpecial: true }].map((options) => text.encode("x", options)[0]);
console.log(JSON.stringify(ways));
"""

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")


def node(code: str, job: dict[str, Any]) -> Any:
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code, "--", TEXT_JS],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    parts: list[str] = node(STREAM, job)
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


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_read_in_text_only_where_it_is_asked_for_as_in_the_driver(
    kind: str,
) -> None:
    whole = KINDS[kind]()
    whole.add_tokens([non_special("def_of")])
    content = json.loads(whole.to_str())
    codec = HuggingFace(whole.to_str().encode())
    plain, special = (Whole.from_str(json.dumps(one)) for one in node(GIVEN, content))
    for one in (*SPECIAL, "<unk>", "def_of", *TEXTS):
        for text in (one, f"a{one}b", f"a {one} b", one * 2):
            found, read = (
                each.encode(text, add_special_tokens=False).ids for each in (plain, special)
            )
            assert found == codec.encode(text), text
            assert read == codec.encode(text, allow_special=True), text
    start = whole.token_to_id(START)
    assert start not in plain.encode(START, add_special_tokens=False).ids
    assert special.encode(START, add_special_tokens=False).ids == [start]


def test_merges_that_make_a_special_token_are_left_out_in_both_spellings() -> None:
    model = {"type": "BPE", "vocab": {"<": 0, "s": 1, "<s": 2, "a": 3, "sa": 4}, "unk_token": "<s"}
    added = [{**FLAGS, "id": 2, "content": "<s", "special": True}]
    for merges in ([["<", "s"], ["s", "a"]], ["< s", "s a"]):
        file = {"model": {**model, "merges": merges}, "added_tokens": added}
        plain, special = node(GIVEN, file)
        assert special == file
        assert plain["model"]["merges"] == merges[1:]
        (name,) = (piece for piece, token in plain["model"]["vocab"].items() if token == 2)
        assert name.endswith("<s")
        assert len(name) > 20
        assert plain["model"]["unk_token"] == plain["added_tokens"][0]["content"] == name
