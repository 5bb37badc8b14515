"""A checkpoint with ``tokenizer.json`` alone is exported, and reads text as transformers does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer as Theirs
from tokenizers import processors
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.sidecars.card import render_card
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer, read_vocabulary
from tramontane.export.tokenizer.write_tokenizer import AS_PUBLISHED, write_tokenizer
from tramontane.runtime import Session
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.tokenizers.hugging_face import HuggingFace
from tramontane.runtime.tokenizers.tokenizer import Tokenizer
from tramontane.validate.sequences.tokens import TokenText

from ...support.once import Once
from ...support.tiny_tokenizers import END, KINDS, SPECIAL, START, save

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Write) -> Path:
    return tiny_checkpoint(vocab_size=640)


@pytest.fixture
def checkpoint(weights: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint whose tokenizer is of a kind of ``tiny_tokenizers``."""

    def make(kind: str) -> Path:
        folder = Path(shutil.copytree(weights, tmp_path / "checkpoint"))
        tokenizer = KINDS[kind]()
        for name in ("config.json", "generation_config.json"):
            content = json.loads((folder / name).read_bytes())
            content["eos_token_id"] = tokenizer.token_to_id(END)
            (folder / name).write_text(json.dumps(content))
        return save(tokenizer, folder)

    return make


def write(folder: Path, out: Path) -> Tokenizer:
    """Write the tokenizer's files and open them as the driver does."""
    out.mkdir()
    weights = Checkpoint.open(folder)
    vocabulary = read_vocabulary(weights)
    assert write_tokenizer(weights, out, vocabulary) == AS_PUBLISHED
    path = out / "tokenizer.json"
    return Tokenizer(HuggingFace(path.read_bytes()), vocabulary, path=path)


@pytest.mark.parametrize("kind", KINDS)
def test_driver_reads_text_as_transformers_does_with_the_checkpoint_and_with_the_artifact(
    checkpoint: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    folder = checkpoint(kind)
    driver = write(folder, tmp_path / "out")
    shutil.copy(folder / "config.json", tmp_path / "out")
    for read in (folder, tmp_path / "out"):
        theirs = transformers.AutoTokenizer.from_pretrained(read)
        for text in (*PROBE_TEXTS, "<|im_start|>user\nhi<|im_end|>"):
            ids = theirs(text)["input_ids"]
            if not ids:
                continue  # there is nothing to decode from
            assert driver.encode(text, allow_special=True) == ids, text
            assert driver.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
            if not any(special in text for special in (*SPECIAL, "<unk>")):
                assert driver.encode(text) == ids, text
    begins = kind in {"llama_3", "like_sentencepiece"}
    vocabulary = driver.vocabulary
    assert (vocabulary.kind, vocabulary.add_bos_token) == ("tokenizers", begins)
    assert vocabulary.bos_token_id == theirs.bos_token_id
    assert vocabulary.eos_token_ids == (theirs.eos_token_id,)


def test_files_are_carried_byte_for_byte(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint("byte_level")
    write(folder, tmp_path / "out")
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found.keys() == {"tokenizer.json", "tokenizer_config.json"}
    for name, content in found.items():
        assert content == (folder / name).read_bytes(), name
    assert capsys.readouterr().err == ""


def test_settings_are_made_where_none_are_published(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint("llama_3")
    (folder / "tokenizer_config.json").unlink()
    driver = write(folder, tmp_path / "out")
    shutil.copy(folder / "config.json", tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("a b")["input_ids"] == driver.encode("a b")
    assert theirs.bos_token == START
    assert theirs.model_max_length == 256


@pytest.mark.slow
def test_an_artifact_runs_and_its_manifest_and_card_name_the_kind(
    checkpoint: Callable[[str], Path], once: Once, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint("llama_3")
    artifact = once(
        "llama-3-fp32-ort", lambda out: export_checkpoint(folder, out, options_named("fp32-ort"))
    )
    manifest = read_manifest(artifact)
    assert manifest.vocabulary.kind == "tokenizers"
    assert manifest.tokenizer_json == AS_PUBLISHED
    assert "tokenizer.json" in manifest.source
    assert not (artifact / "tokenizer.model").exists()
    assert "needs numpy, onnxruntime and tokenizers. It is" in render_card(manifest)
    assert 'pip install "path/to/tramontane[tokenizers]"' in render_card(manifest)
    session = Session.load(artifact, threads=1, verify=True)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = f"<|im_start|>user\nGrüße{END}"
    ids = theirs(prompt)["input_ids"]
    made = session.generate(ids, max_new_tokens=20).finish().tokens
    session.reset()
    text = "".join(session.generate(prompt, max_new_tokens=20, allow_special=True))
    whole, before = (theirs.decode(t, skip_special_tokens=True) for t in ([*ids, *made], ids))
    assert text == whole.removeprefix(before)
    session.reset()
    assert text != "".join(session.generate(prompt, max_new_tokens=20))


def test_the_gate_has_its_tokens_and_names_them(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("byte_level")
    text = TokenText(Checkpoint.open(folder))
    expected = Theirs.from_file(str(folder / "tokenizer.json"))
    words = "one two  three é"
    ids = expected.encode(words).ids
    assert text.tokens(words, len(ids)).tolist() == ids
    assert "".join(map(text.piece, ids)) == words.replace("é", "<0xC3><0xA9>")
    assert text.piece(expected.token_to_id(END)) == END
    assert text.piece(639) == ""  # the model scores more tokens than the tokenizer has


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"tokenizer\.json: not a tokenizer\.json \(.*\), expected one; download"),
        (None, r"tokenizer\.json: 600 tokens, the model scores 512; this is another model's"),
    ],
)
def test_a_tokenizer_that_is_not_the_models_is_refused(
    checkpoint: Callable[[str], Path], tiny_checkpoint: Write, content: bytes | None, message: str
) -> None:
    folder = checkpoint("byte_level")
    if content is None:
        small = tiny_checkpoint(vocab_size=512)
        shutil.copy(folder / "tokenizer.json", small)
        (small / "tokenizer.model").unlink()
        folder = small
    else:
        (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary(Checkpoint.open(folder))


@pytest.mark.parametrize("kind", ["byte_level", "llama_3"])
def test_lengths_to_cut_at_and_to_pad_to_change_no_prompt(
    checkpoint: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    folder = checkpoint(kind)
    theirs = Theirs.from_file(str(folder / "tokenizer.json"))
    theirs.enable_truncation(2)
    theirs.enable_padding(length=8)
    theirs.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").unlink()  # so that tokenizer.json alone decides
    text = "one two three four five six seven eight nine"
    expected = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert len(expected) > 8
    assert write(folder, tmp_path / "out").encode(text) == expected


def test_a_file_that_puts_no_start_token_in_front_decides_that_prompts_have_none(
    checkpoint: Callable[[str], Path],
) -> None:
    folder = checkpoint("llama_3")
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert not CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary.add_bos_token


@pytest.mark.situation(
    "tokenizer.json that puts an end token behind every text: noted, and left out",
    package="transformers",
)
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("kind", ["byte_level", "like_sentencepiece"])
def test_an_end_token_behind_every_text_is_left_out_and_said(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    begins: bool,
) -> None:
    folder, out = checkpoint(kind), tmp_path / "out"
    path = folder / "tokenizer.json"
    published = Theirs.from_file(str(path))
    published.post_processor = processors.TemplateProcessing(
        single=[*([START] if begins else []), "$A", END],
        special_tokens=[(one, published.token_to_id(one)) for one in (START, END)],
    )
    published.save(str(path))
    out.mkdir()
    weights = Checkpoint.open(folder)
    vocabulary = read_vocabulary(weights)
    capsys.readouterr()
    origin = "made from tokenizer.json, without its end of a text"
    assert write_tokenizer(weights, out, vocabulary) == origin
    assert capsys.readouterr().err == (
        f"{path}: ends a text with {END}, which a prompt must not; the artifact's tokenizer.json "
        "ends it with nothing\n"
    )
    content = (out / "tokenizer.json").read_bytes()
    driver = Tokenizer(HuggingFace(content), vocabulary, path=out / "tokenizer.json")
    shutil.copy(folder / "config.json", out)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    before = transformers.AutoTokenizer.from_pretrained(folder)
    end = published.token_to_id(END)
    for text in ("a b", "<|im_start|>user\nhi<|im_end|>", *PROBE_TEXTS):
        if not (ids := before(text)["input_ids"][:-1]):
            continue
        assert before(text)["input_ids"][-1] == end
        assert driver.encode(text, allow_special=True) == ids, text
        assert theirs(text)["input_ids"] == ids, text
        assert Theirs.from_str(content.decode()).encode(text).ids == ids, text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"holds no tokenizer\.json and no tokenizer\.model, expected one .*; copy tokenizer"),
        (("vocab.json", "merges.txt"), r"but vocab\.json and merges\.txt; write tokenizer\.json"),
    ],
)
def test_a_folder_without_a_tokenizer_is_told_what_to_do(
    checkpoint: Callable[[str], Path], names: tuple[str, ...], message: str
) -> None:
    folder = checkpoint("byte_level")
    (folder / "tokenizer.json").unlink()
    for name in names:
        (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary(Checkpoint.open(folder))
