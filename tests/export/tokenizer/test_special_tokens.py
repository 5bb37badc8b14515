"""Do prompts begin and answers end as transformers has it, for every part that needs to know?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import processors
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.calibrate.tokens import calibration_tokens
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.sidecars.sidecars import write_sidecars
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer, read_vocabulary
from tramontane.export.tokenizer.tokenizer_json import TokenizerJson
from tramontane.export.tokenizer.write_tokenizer import MADE as MADE_OF_MODEL
from tramontane.export.tokenizer.write_tokenizer import SPACED, write_tokenizer
from tramontane.graphs.targets.all_targets import find_target
from tramontane.runtime import Session
from tramontane.runtime.errors import CheckpointError, ConfigError, TramontaneError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.tokenizers.sentencepiece import SentencePiece
from tramontane.runtime.tokenizers.tokenizer import Tokenizer
from tramontane.runtime.tokenizers.vocabulary import Vocabulary
from tramontane.validate.sequences.tokens import TokenText

Write = Callable[..., Path]
MADE: dict[str, Path] = {}  # checkpoints by architecture
LLAMA = "LlamaForCausalLM"
CONTROL = ("<s>", "</s>", "<unk>")
TEXT = "def fibonacci(n):\n    return n\n" * 20


@pytest.fixture
def copied(tiny_checkpoint: Write, tmp_path: Path) -> Write:
    """A checkpoint to change; each architecture is made once."""

    def copy(architecture: str = "MistralForCausalLM") -> Path:
        if architecture not in MADE:
            MADE[architecture] = tiny_checkpoint(architecture)
        return Path(shutil.copytree(MADE[architecture], tmp_path / architecture))

    return copy


def open_driver(folder: Path, vocabulary: Vocabulary) -> Tokenizer:
    path = folder / "tokenizer.model"
    return Tokenizer(SentencePiece(path.read_bytes()), vocabulary, path=path)


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """Change a JSON file of a folder; ``...`` leaves a key out."""
    path = folder / name
    content = json.loads(path.read_bytes()) if path.is_file() else {}
    content = {key: value for key, value in {**content, **changes}.items() if value is not ...}
    path.write_text(json.dumps(content))
    return folder


def sidecars(folder: Path, out: Path) -> dict[str, Any]:
    """All files beside the graph that an artifact of a checkpoint gets, as they read."""
    weights = Checkpoint.open(folder)
    out.mkdir(exist_ok=True)
    vocabulary = read_vocabulary(weights)
    write_tokenizer(weights, out, vocabulary)
    write_sidecars(weights, out, weights.config, vocabulary, target=find_target("ort"))
    return {path.name: json.loads(path.read_bytes()) for path in out.glob("*.json")}


ENDS = {
    "generation_config decides": ([2, 317], 2, (2, 317)),
    "one in a list": ([317], 2, (317,)),
    "a number": (317, [2, 5], (317,)),
    "the config, where generation_config names none": (..., [5, 6], (5, 6)),
    "the config, where generation_config has null": (None, 5, (5,)),
    "the tokenizer, where neither names any": (..., None, (2,)),
    "a token twice": ([7, 7, 2], 2, (7, 2)),
}


@pytest.mark.parametrize("kind", ENDS)
def test_every_file_of_an_artifact_names_the_end_tokens_that_transformers_stops_at(
    copied: Write, tmp_path: Path, kind: str
) -> None:
    generation, config, expected = ENDS[kind]
    folder = edited(copied(), "generation_config.json", eos_token_id=generation)
    edited(folder, "config.json", eos_token_id=config)
    assert read_vocabulary(Checkpoint.open(folder)).eos_token_ids == expected
    theirs = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    if theirs is not None:
        assert tuple(dict.fromkeys(np.atleast_1d(theirs))) == expected
    found = sidecars(folder, tmp_path / "out")
    named = list(expected) if len(expected) > 1 else expected[0]
    for described in (
        found["config.json"],
        found["generation_config.json"],
        found["genai_config.json"]["model"],
    ):
        assert described["eos_token_id"] == named
    assert found["genai_config.json"]["model"]["pad_token_id"] == expected[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id == expected[0]


def test_end_tokens_without_generation_config_are_those_of_the_config(
    copied: Write,
) -> None:
    folder = edited(copied(), "config.json", eos_token_id=[9, 2])
    (folder / "generation_config.json").unlink()
    assert read_vocabulary(Checkpoint.open(folder)).eos_token_ids == (9, 2)


@pytest.mark.slow
def test_driver_stops_where_transformers_stops(tiny_checkpoint: Write, tmp_path: Path) -> None:
    folder = tiny_checkpoint(eos_token_id=2)
    prompt = torch.tensor([[1, 20, 300, 7]])

    def theirs() -> list[int]:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        made = model.generate(prompt, max_new_tokens=40, do_sample=False)
        return [int(token) for token in made[0, prompt.shape[1] :]]

    unstopped = theirs()
    end = next(token for i, token in enumerate(unstopped) if i > 5 and token not in unstopped[:i])
    edited(folder, "generation_config.json", eos_token_id=[2, end])
    stopped = theirs()
    assert stopped[-1] == end
    assert len(stopped) < 40
    out = tmp_path / "artifact"
    export_checkpoint(folder, out, ExportOptions(quant="fp32", target="ort"))
    assert read_manifest(out).vocabulary.eos_token_ids == (2, end)
    session = Session.load(out)
    logits, made = session.prefill(prompt[0].tolist()), []
    while len(made) < 40:
        made.append(int(logits.argmax()))
        if made[-1] in session.manifest.vocabulary.eos_token_ids:
            break
        logits = session.step(made[-1])
    assert made == stopped


BAD_ENDS = {
    "text": ("</s>", "eos_token_id is '</s>'; expected a number"),
    "text in a list": ([2, "</s>"], "eos_token_id is '</s>'; expected a number"),
    "null in a list": ([2, None], r"eos_token_id is \[2, None\]; expected no null"),
    "below 0": ([2, -1], "eos_token_id is -1; expected at least 0"),
    "beyond the vocabulary": ([2, 2048], "eos_token_id has 2048, expected a token below 2048"),
    "true": (True, "eos_token_id is True; expected a number"),
    "an object": ({"id": 2}, "eos_token_id is {'id': 2}; expected a number"),
}


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("kind", BAD_ENDS)
def test_end_tokens_that_are_none_are_refused_and_the_file_is_named(
    copied: Write, name: str, kind: str
) -> None:
    value, message = BAD_ENDS[kind]
    folder = copied()
    (folder / "generation_config.json").unlink()
    edited(folder, name, eos_token_id=value)
    with pytest.raises(ConfigError, match=message) as refusal:
        read_vocabulary(Checkpoint.open(folder))
    assert str(refusal.value).startswith(f"{folder / name}: eos_token_id")
    assert str(refusal.value).count(str(folder)) == 1


def publish(folder: Path, *, start: list[int]) -> None:
    """Put a ``tokenizer.json`` beside the weights that begins a text with these tokens."""
    vocabulary = Vocabulary(bos_token_id=None, eos_token_ids=(2,), add_bos_token=False)
    model = (folder / "tokenizer.model").read_bytes()
    found = TokenizerJson(model, vocabulary, reads_control=True).tokenizer()
    if start:
        (piece,) = (CONTROL[{1: 0, 2: 1, 0: 2}[token]] for token in start)
        found.post_processor = processors.TemplateProcessing(
            single=[piece, "$A"], special_tokens=[(piece, start[0])]
        )
    found.save(str(folder / "tokenizer.json"))


SETTINGS: dict[str, tuple[dict[str, Any] | None, list[int] | None, list[int]]] = {
    # tokenizer_config.json, what tokenizer.json begins with, what a prompt begins with
    "as LlamaTokenizer": ({"add_bos_token": True}, None, [1]),
    "another token": ({"add_bos_token": True, "bos_token": "<unk>"}, None, [0]),
    "an object": (
        {"add_bos_token": True, "bos_token": {"content": "</s>", "__type": "AddedToken"}},
        None,
        [2],
    ),
    "null": ({"add_bos_token": True, "bos_token": None}, None, []),
    "not wanted": ({"add_bos_token": False}, None, []),
    "null is not wanted": ({"add_bos_token": None}, None, []),
    "tokenizer.json begins": ({}, [1], [1]),
    "tokenizer.json begins otherwise": ({}, [2], [2]),
    "tokenizer.json does not begin": ({}, [], []),
    "tokenizer.json without settings": (None, [1], [1]),
    "tokenizer.json over settings": ({"add_bos_token": False}, [1], [1]),
    "tokenizer.json over settings that begin": ({"add_bos_token": True}, [], []),
    "tokenizer.json over another token": ({"add_bos_token": True, "bos_token": "<s>"}, [2], [2]),
}


@pytest.mark.parametrize("own", [0, None], ids="config has {}".format)
@pytest.mark.parametrize("kind", SETTINGS)
def test_prompts_begin_as_in_transformers_whatever_the_config_says(
    copied: Write, kind: str, own: int | None
) -> None:
    settings, begins, expected = SETTINGS[kind]
    folder = edited(copied(LLAMA), "config.json", bos_token_id=own)
    if begins is not None:
        publish(folder, start=begins)
    if settings is not None:
        edited(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", **settings)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = CheckpointTokenizer.read(Checkpoint.open(folder))
    assert tokenizer.vocabulary.prompt_start == expected
    assert theirs("")["input_ids"] == expected


@pytest.mark.parametrize("kind", SETTINGS)
def test_gate_calibration_driver_and_all_files_share_the_start_token(
    copied: Write, tmp_path: Path, kind: str
) -> None:
    settings, begins, expected = SETTINGS[kind]
    folder = edited(copied(LLAMA), "config.json", bos_token_id=0)
    edited(folder, "generation_config.json", bos_token_id=0)
    if begins is not None:
        publish(folder, start=begins)
    if settings is not None:
        edited(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", **settings)
    checkpoint = Checkpoint.open(folder)
    vocabulary, found = read_vocabulary(checkpoint), sidecars(folder, tmp_path / "out")
    driver = open_driver(tmp_path / "out", vocabulary)
    prompt = driver.encode(TEXT)
    first, *_ = calibration_tokens(checkpoint.config, checkpoint, (TEXT,), most=512).text
    measured = TokenText(checkpoint).tokens(TEXT, len(prompt))
    assert prompt[: len(expected)] == expected
    assert measured.tolist() == prompt
    assert first.tolist() == prompt[: len(first)]
    for described in (found["config.json"], found["generation_config.json"]):
        assert described["bos_token_id"] == vocabulary.bos_token_id
    assert found["genai_config.json"]["model"].get("bos_token_id") == vocabulary.bos_token_id
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("")["input_ids"] == expected


def test_change_of_a_published_token_is_said_once_with_its_file(
    copied: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edited(copied(), "config.json", bos_token_id=0, eos_token_id=2)
    edited(folder, "generation_config.json", bos_token_id=1, eos_token_id=[2, 317])
    capsys.readouterr()
    sidecars(folder, tmp_path / "out")
    assert capsys.readouterr().err.splitlines() == [
        f"{folder}/config.json: bos_token_id is 0; the artifact has 1 "
        "(the tokenizer decides, as in transformers)",
        f"{folder}/config.json: eos_token_id is 2; the artifact has [2, 317] "
        "(generation_config.json decides, as in transformers)",
    ]


def without_start(folder: Path) -> Path:
    """Make the SentencePiece model one that has no start token."""
    path = folder / "tokenizer.model"
    model: Any = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    model.pieces[1].piece = "<pad>"
    model.trainer_spec.bos_id = -1
    path.write_bytes(model.SerializeToString())
    return folder


def test_model_without_a_start_token_feeds_none(copied: Write, tmp_path: Path) -> None:
    folder = without_start(edited(copied(), "config.json", bos_token_id=1))
    tokenizer = CheckpointTokenizer.read(Checkpoint.open(folder))
    assert tokenizer.codec.start_token is None
    assert tokenizer.vocabulary.prompt_start == []
    assert tokenizer.vocabulary.bos_token_id is None
    assert (TokenText(Checkpoint.open(folder)).tokens(TEXT, 64) >= 0).all()
    found = sidecars(folder, tmp_path / "out")
    assert found["config.json"]["bos_token_id"] is None
    assert "bos_token_id" not in found["genai_config.json"]["model"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("")["input_ids"] == []


BAD_STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "no piece": ({"bos_token": "<bos>"}, "bos_token is '<bos>', expected one of the 2048 tokens"),
    "a number": ({"bos_token": 1}, "bos_token is 1; expected a token's text"),
    "an object of another kind": ({"bos_token": {"id": 1}}, "bos_token is {'id': 1}; expected a"),
    "whether, as text": ({"add_bos_token": "no"}, "add_bos_token is 'no'; expected true or false"),
    "space, as text": ({"add_prefix_space": "no"}, "add_prefix_space is 'no'; expected true or"),
    "not scored": (
        {"bos_token": "<bos>", "added_tokens_decoder": {"2048": {"content": "<bos>"}}},
        "the start token is 2048, expected a token below 2048",
    ),
}


@pytest.mark.parametrize("kind", BAD_STARTS)
def test_start_token_that_is_none_is_refused_and_the_file_is_named(
    copied: Write, kind: str
) -> None:
    settings, message = BAD_STARTS[kind]
    folder = edited(copied(), "tokenizer_config.json", **settings)
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_vocabulary(Checkpoint.open(folder))
    assert str(refusal.value).startswith(f"{folder / 'tokenizer_config.json'}: ")


def test_added_token_beyond_the_pieces_is_found_by_its_name(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(vocab_size=2056)
    added = {"2050": {"content": "<|im_end|>"}, "2051": {"content": "<|im_start|>"}}
    edited(
        folder,
        "tokenizer_config.json",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        added_tokens_decoder=added,
    )
    edited(folder, "generation_config.json", eos_token_id=None)
    edited(folder, "config.json", eos_token_id=None)
    vocabulary = read_vocabulary(Checkpoint.open(folder))
    assert (vocabulary.bos_token_id, vocabulary.eos_token_ids) == (2051, (2050,))
    found = sidecars(folder, tmp_path / "out")
    assert found["genai_config.json"]["model"]["vocab_size"] == 2056
    assert found["tokenizer_config.json"]["eos_token"] == "<|im_end|>"
    assert found["tokenizer.json"]["model"]["vocab"]["<|im_end|>"] == 2050


def test_several_start_tokens_are_refused(copied: Write) -> None:
    folder = copied()
    publish(folder, start=[1])
    content = json.loads((folder / "tokenizer.json").read_bytes())
    single = content["post_processor"]["single"]
    single.insert(0, single[0])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"begins a text with \[1, 1\], expected one start"):
        read_vocabulary(Checkpoint.open(folder))


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("template", [None, "{{ messages[0].content + eos_token }}"])
def test_eos_token_of_the_settings_is_corrected_unless_a_chat_template_writes_it(
    copied: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    template: str | None,
    is_file: bool,
) -> None:
    folder = edited(copied(), "generation_config.json", eos_token_id=[317, 5])
    edited(
        folder,
        "tokenizer_config.json",
        eos_token="</s>",
        add_eos_token=True,
        chat_template=None if is_file else template,
    )
    if is_file:
        (folder / "chat_template.jinja").write_text(template or "{{ messages }}")
    edited(folder, "special_tokens_map.json", eos_token={"content": "</s>"}, bos_token="<s>")
    found = sidecars(folder, tmp_path / "out")
    piece = CheckpointTokenizer.read(Checkpoint.open(folder)).codec.piece(317)
    expected = "</s>" if template else piece
    assert found["tokenizer_config.json"]["eos_token"] == expected
    assert found["tokenizer_config.json"]["add_eos_token"] is False
    named = found["special_tokens_map.json"]
    assert named["eos_token"] == ({"content": "</s>"} if template else piece)
    assert named["bos_token"] == "<s>"
    note = "eos_token is '</s>', which a chat template writes, and generation does not end with it"
    assert (note in capsys.readouterr().err) == (template is not None)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("a")["input_ids"] == [
        1,
        *CheckpointTokenizer.read(Checkpoint.open(folder)).codec.encode("a"),
    ]  # no end token after a prompt


@pytest.mark.parametrize("legacy", [True, False, ...], ids="legacy {}".format)
@pytest.mark.parametrize("has_json", [False, True], ids=["tokenizer.model", "tokenizer.json"])
def test_text_without_a_space_in_front_is_read_as_by_transformers(
    copied: Write, tmp_path: Path, has_json: bool, legacy: Any
) -> None:
    folder = copied(LLAMA)
    settings = {"add_prefix_space": False, "legacy": legacy, "add_bos_token": True}
    edited(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", **settings)
    if has_json:
        publish(folder, start=[1])
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    checkpoint, out = Checkpoint.open(folder), tmp_path / "out"
    sidecars(folder, out)
    driver = open_driver(out, read_vocabulary(checkpoint))
    written = transformers.AutoTokenizer.from_pretrained(out)
    for text in (text for text in PROBE_TEXTS if not any(token in text for token in CONTROL)):
        expected = theirs(text)["input_ids"]
        assert driver.encode(text) == expected, text
        assert written(text)["input_ids"] == expected, text
        assert driver.decode(expected[1:]) == theirs.decode(expected[1:]), text
    assert driver.encode("word") != [1, *_processor_of(folder).encode("word")]


@pytest.mark.parametrize("legacy", [True, False, ...], ids="legacy {}".format)
@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_made_tokenizer_json_that_differs_after_a_control_token_says_so(
    copied: Write, tmp_path: Path, template: str | None, legacy: Any
) -> None:
    settings = {"chat_template": template, "legacy": legacy, "add_bos_token": True}
    folder = edited(copied(LLAMA), "tokenizer_config.json", **settings)
    checkpoint = Checkpoint.open(folder)
    said = write_tokenizer(checkpoint, tmp_path, read_vocabulary(checkpoint))
    assert said == (SPACED if template and legacy is False else MADE_OF_MODEL)
    if template is None or legacy is ...:
        return  # text that spells a control token stays text; or transformers' versions differ
    edited(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [one("word</s>word")["input_ids"] for one in (ours, theirs)]
    assert (ids[0] == ids[1]) == legacy
    assert ours("word")["input_ids"] == theirs("word")["input_ids"]


def _processor_of(folder: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_space_in_front_that_only_the_settings_ask_for_is_written(copied: Write) -> None:
    folder = copied(LLAMA)
    usual = CheckpointTokenizer.read(Checkpoint.open(folder)).codec.encode("word")
    path = folder / "tokenizer.model"
    model: Any = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    path.write_bytes(model.SerializeToString())
    assert CheckpointTokenizer.read(Checkpoint.open(folder)).codec.encode("word") != usual
    edited(folder, "tokenizer_config.json", add_prefix_space=True)
    assert CheckpointTokenizer.read(Checkpoint.open(folder)).codec.encode("word") == usual


def test_tokenizer_json_that_transformers_takes_as_it_is_comes_before_the_setting(
    copied: Write,
) -> None:
    folder = copied()  # a Mistral, whose tokenizer.json transformers takes as it is
    publish(folder, start=[1])
    edited(folder, "tokenizer_config.json", add_prefix_space=False)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = CheckpointTokenizer.read(Checkpoint.open(folder))
    for text in ("word", "a  b", "\n"):
        assert [1, *tokenizer.codec.encode(text)] == theirs(text)["input_ids"]


def test_tokenizer_of_llama_3_is_named(copied: Write) -> None:
    folder = copied()
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\nIw== 2\n")
    with pytest.raises(CheckpointError, match="is a tiktoken file") as refusal:
        read_vocabulary(Checkpoint.open(folder))
    assert "copy the tokenizer.json of the same model" in str(refusal.value)
    assert "download" not in str(refusal.value)


def test_sentencepiece_model_under_another_name_is_named(copied: Write) -> None:
    folder = copied()
    (folder / "tokenizer.model").rename(folder / "tokenizer.json")
    with pytest.raises(TramontaneError, match=r"tokenizer\.json: not a tokenizer\.json \("):
        read_vocabulary(Checkpoint.open(folder))
