"""Tests of the tokenizer's check: each planted fault is found, named and explained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.export.published_tokenizer.byte_level.pre_tokenizers import LLAMA_3, split_by
from tramontane.export.published_tokenizer.byte_level.tekken import read_tekken
from tramontane.export.published_tokenizer.sentencepiece_model import parse, serialize
from tramontane.export.tokenizer import in_transformers
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.faults.planted import in_tokenizer
from tramontane.faults.planting import Fault, planted
from tramontane.interop.tokenized import make_checkpoint
from tramontane.runtime.errors import ParityError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.tokenizers.sentencepiece import SPACE
from tramontane.validate.causes.of_tokenizer import cause_of_tokenizer
from tramontane.validate.run_gate import require_parity
from tramontane.validate.tokenizer import readers
from tramontane.validate.tokenizer.check_tokenizer import TokenizerChecks, check_tokenizer
from tramontane.validate.tokenizer.reading import Reading, differences
from tramontane.validate.verdict import Check

from ...export.published_tokenizer.byte_level.scripts import NUM_SPECIAL, tekken, trained
from ...export.published_tokenizer.byte_level.scripts import START as SPECIAL
from ...support.tiny_tokenizers import END, START, llama_3, non_special, save

pytestmark = pytest.mark.slow

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def chat(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with byte-level BPE, added tokens and a chat template, as Llama 3 has them."""
    folder = shutil.copytree(
        tiny_checkpoint(vocab_size=640), tmp_path_factory.mktemp("chat") / "model"
    )
    tokenizer = llama_3()
    tokenizer.add_tokens([non_special("def_of")])
    return save(tokenizer, folder, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def good(chat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its artifact, not proved."""
    out = tmp_path_factory.mktemp("chat") / "artifact"
    export_checkpoint(chat, out, options_named("fp32-ort"))
    return out


def checked(artifact: Path, checkpoint: Path) -> TokenizerChecks:
    return check_tokenizer(
        artifact, read_manifest(artifact).vocabulary, Checkpoint.open(checkpoint)
    )


def failed(artifact: Path, checkpoint: Path) -> list[Check]:
    return [check for check in checked(artifact, checkpoint).checks if check.failures]


def test_all_readings_of_an_artifact_are_the_checkpoints(good: Path, chat: Path) -> None:
    found = checked(good, chat)
    assert [check.name for check in found.checks] == [
        "tokenizer.json, as the driver reads it",
        "tokenizer.json, as tokenizers reads it",
        "tokenizer.json, as transformers reads it",
        "chat templates",
    ]
    assert [check.failures for check in found.checks] == [()] * 4
    assert all(check.figures["differing"] == 0 for check in found.checks)
    assert found.notes == []


IN_MANIFEST = [fault for fault in in_tokenizer.FAULTS if fault.name.startswith("manifest.json: ")]
FITTING = [
    fault
    for fault in in_tokenizer.FAULTS
    if fault.name != "tokenizer.json: the ids of two pieces exchanged"  # SentencePiece's
    and fault not in IN_MANIFEST  # likewise
]


@pytest.mark.parametrize("fault", FITTING, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found_and_explained(
    good: Path, chat: Path, tmp_path: Path, fault: Fault
) -> None:
    checkpoint = Checkpoint.open(chat)
    assert fault.fits(checkpoint)
    spoilt = planted(fault, good, tmp_path / "spoilt")
    first = failed(spoilt, chat)[0]
    assert first.name.startswith(fault.place)
    found = cause_of_tokenizer(first, spoilt, read_manifest(spoilt), checkpoint)
    assert found is not None
    assert fault.cause in found[0]


def test_exchanged_ids_name_the_first_string_the_ids_and_the_file(
    good: Path, chat: Path, tmp_path: Path
) -> None:
    (fault,) = (one for one in FITTING if "added tokens exchanged" in one.name)
    spoilt = planted(fault, good, tmp_path / "spoilt")
    first, *_ = failed(spoilt, chat)
    assert first.failures[0].startswith(
        f"{spoilt / 'tokenizer.json'}: token 2: found '<|im_end|>', expected '<|im_start|>'"
    )


def test_a_lost_token_names_the_string_that_it_is_in(
    good: Path, chat: Path, tmp_path: Path
) -> None:
    spoilt = shutil.copytree(good, tmp_path / "spoilt")
    path = spoilt / "tokenizer.json"
    content = json.loads(path.read_bytes())
    for one in content["added_tokens"]:
        one["lstrip"] = one["content"] == "<|im_end|>"
    path.write_text(json.dumps(content), encoding="utf-8")
    first, *_ = failed(spoilt, chat)
    assert "tokens of 'a <|im_end|> b': found [" in first.failures[0]
    found = cause_of_tokenizer(first, spoilt, read_manifest(spoilt), Checkpoint.open(chat))
    assert found is not None
    cause, evidence = found
    expected = "added token '<|im_end|>' has lstrip True, expected False"
    assert cause == f"tokenizer.json: {expected}"
    assert evidence == ("with the checkpoint's added_tokens, all strings and tokens are alike")


def test_the_gate_refuses_an_artifact_without_its_template_and_says_why(
    good: Path, chat: Path, tmp_path: Path
) -> None:
    (fault,) = (one for one in FITTING if one.name == "the chat template lost")
    spoilt = planted(fault, good, tmp_path / "spoilt")
    with pytest.raises(ParityError, match="chat_template.jinja: found no template") as refused:
        require_parity(spoilt, Checkpoint.open(chat))
    assert "1 of " in str(refused.value)
    assert "first at fault: chat templates" in str(refused.value)
    assert "export again" in str(refused.value)


def test_a_sidecar_that_cannot_be_read_fails_its_check(
    stdlib_5m: Path, embedded_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    spoilt = shutil.copytree(embedded_artifact("fp32-ort"), tmp_path / "spoilt")
    path = spoilt / "tokenizer.json"
    path.write_text("{}")
    (check,) = failed(spoilt, stdlib_5m)
    assert f"{path}: tokenizers does not read it" in check.failures[0]
    path.unlink()
    left_out, of_transformers = checked(spoilt, stdlib_5m).notes
    assert left_out == "the artifact has no tokenizer.json, so none was compared"
    assert "found [], expected [1]; tokens of 'a'" in of_transformers


def test_where_transformers_does_not_read_the_checkpoint_a_note_says_so(
    good: Path, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("an unknown class\nand more")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    found = checked(good, chat)
    assert [check.name for check in found.checks][-2:] == [
        "tokenizer.json, as tokenizers reads it",
        "chat templates",
    ]
    assert found.notes == [
        f"tokenizer.json: transformers {transformers.__version__} does not read it "
        "(an unknown class), so its tokens were not compared"
    ]


def test_a_class_of_transformers_that_reads_other_files_is_not_compared(
    chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: object())
    found = readers.read_transformers(Checkpoint.open(chat).read_tokenizer())
    assert isinstance(found, str)
    assert found.endswith("(its class is object, which reads other files)")


def test_where_transformers_is_not_installed_a_note_says_so_and_nothing_else_changes(
    good: Path, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Checkpoint.open(chat).read_tokenizer()
    with monkeypatch.context() as patch:
        patch.setattr(readers.importlib.util, "find_spec", lambda _: None)
        assert readers.read_transformers(published) == "transformers is not installed"
    monkeypatch.setattr(readers, "_is_installed", lambda: False)
    found = checked(good, chat)
    assert found.not_compared is not None
    assert found.not_compared in found.notes
    assert not any(check.failures for check in found.checks)


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_split_regex_that_the_export_corrects_passes_with_a_note(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, is_beside: bool
) -> None:
    folder = shutil.copytree(
        tiny_checkpoint(vocab_size=len(trained()) - 5 + NUM_SPECIAL), tmp_path / "model"
    )
    (folder / "tokenizer.model").unlink()
    path = folder / "tekken.json"
    path.write_text(json.dumps(tekken("v11", (*SPECIAL, "<pad>"))))
    published = read_tekken(path).tokenizer()
    published.pre_tokenizer = split_by(LLAMA_3)
    published.save(str(folder / "tokenizer.json"))
    if not is_beside:
        path.unlink()
    artifact = tmp_path / "artifact"
    export_checkpoint(folder, artifact, options_named("fp32-ort"))
    found = checked(artifact, folder)
    assert [check.failures for check in found.checks] == [()] * 4
    (note,) = found.notes
    assert "transformers reads it with its wrong split regex, which the artifact's" in note


def test_a_published_file_that_transformers_rebuilds_is_compared_with_what_it_makes(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """As transformers saves a Llama with legacy: true; the saved settings lack that."""
    folder = shutil.copytree(
        tiny_checkpoint("LlamaForCausalLM", vocab_size=2064), tmp_path / "model"
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": True}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens([transformers.AddedToken("def_of", normalized=False)])
    (folder / "tokenizer.model").unlink()
    tokenizer.save_pretrained(folder)
    out = tmp_path / "artifact"
    export_checkpoint(folder, out, options_named("fp32-ort"))
    found = checked(out, folder)
    assert [check.failures for check in found.checks] == [()] * 4
    assert found.checks[2].name == "tokenizer.json, as transformers reads it"
    (note,) = found.notes
    assert " in transformers 5, which takes only the vocabulary from this file" in note
    path = folder / "tokenizer_config.json"
    content = {**json.loads(path.read_bytes()), "add_prefix_space": False, "legacy": True}
    expected = in_transformers.read_rebuilt(Checkpoint.open(folder))
    path.write_text(json.dumps(content))
    assert expected is not None
    other = readers.read_transformers(Checkpoint.open(folder).read_tokenizer())
    assert isinstance(other, Reading)
    wanted = readers.as_rebuilt(expected, other)
    assert list(differences(other, wanted, ["hello"], size=0))  # the check can fail


@pytest.mark.situation(
    "`tokenizer.model` alone, of which transformers 5 makes other merges: noted, and read as it is",
    package="transformers",
)
def test_a_model_of_which_transformers_makes_other_merges_has_a_note(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Pieces of spaces have the least score and early ids, as in Llama 2."""
    folder = shutil.copytree(
        tiny_checkpoint("LlamaForCausalLM", vocab_size=2048), tmp_path / "model"
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    out = tmp_path / "artifact"
    export_checkpoint(folder, out, options_named("fp32-ort"))
    note = checked(out, folder).notes[-1]
    assert "reads the file otherwise: tokens of ' a': found" in note
    path = folder / "tokenizer.model"
    proto = parse(path.read_bytes())
    for piece in proto.pieces:
        if len(piece.piece) > 1 and not piece.piece.strip(SPACE):
            piece.score = -1e9
    path.write_bytes(serialize(proto))
    manifest, checkpoint = read_manifest(out), Checkpoint.open(folder)
    write_tokenizer(checkpoint, out, manifest.vocabulary)
    found = check_tokenizer(out, manifest.vocabulary, checkpoint)
    assert [check.failures for check in found.checks] == [()] * len(found.checks)
    note = found.notes[-1]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs("a  b", add_special_tokens=False)["input_ids"]
    own = readers.CheckpointTokenizer.read(checkpoint).codec.encode("a  b")
    assert ids != own
    assert f"reads the file otherwise: tokens of 'a  b': found {ids}, expected {own}" in note


def test_control_pieces_that_only_a_sidecar_reads_are_compared_alone(stdlib_5m: Path) -> None:
    own = readers.CheckpointTokenizer.read(Checkpoint.open(stdlib_5m))
    expected, codec = readers.read_checkpoint(own), own.codec
    wanted = readers.beside_sentencepiece(expected, codec, listed=["<s>", "</s>"], added=[])
    assert wanted.encode("</s>") == [2]
    assert wanted.encode("a</s>") is None
    assert wanted.encode("a") == codec.encode("a")
    assert wanted.decode([2]) == ""
    wanted = readers.beside_sentencepiece(expected, codec, listed=[], added=["<x>"])
    assert wanted.encode("a</s>") == codec.encode("a</s>")
    assert wanted.encode("<x></s>") is None


@pytest.fixture(scope="module")
def with_added(stdlib_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A SentencePiece model with added tokens, as of a fine-tune for chats; its artifact."""
    folder = tmp_path_factory.mktemp("with-added")
    model, artifact = make_checkpoint("added tokens", stdlib_5m, folder / "model"), folder / "out"
    export_checkpoint(model, artifact, options_named("fp32-ort"))
    return model, artifact


def test_the_bundled_model_and_one_with_added_tokens_pass(
    stdlib_5m: Path,
    embedded_artifact: Callable[[str], Path],
    with_added: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    assert failed(embedded_artifact("fp32-ort"), stdlib_5m) == []
    model, artifact = with_added
    found = checked(artifact, model)
    assert [check.failures for check in found.checks] == [()] * len(found.checks)
    path = shutil.copytree(artifact, tmp_path / "spoilt") / "tokenizer.json"
    content = json.loads(path.read_bytes())
    kept = [one for one in content["added_tokens"] if one["content"] != "<|im_end|>"]
    path.write_text(json.dumps({**content, "added_tokens": kept}))
    (check,) = failed(path.parent, model)
    assert check.name == "tokenizer.json, as tokenizers reads it"
    assert "'<|im_end|>'" in check.failures[0]


@pytest.mark.parametrize("fault", IN_MANIFEST, ids=lambda fault: fault.name)
def test_a_planted_fault_of_what_the_driver_adds_is_found_and_explained(
    with_added: tuple[Path, Path], tmp_path: Path, fault: Fault
) -> None:
    model, artifact = with_added
    checkpoint = Checkpoint.open(model)
    assert fault.fits(checkpoint)
    spoilt = planted(fault, artifact, tmp_path / "spoilt")
    first = failed(spoilt, model)[0]
    assert first.name == fault.place
    found = cause_of_tokenizer(first, spoilt, read_manifest(spoilt), checkpoint)
    assert found is not None
    assert fault.cause in found[0]
    named = "<|im_end|>" if "exchanged" in fault.name else "<tool_call>"
    assert f"added token '{named}'" in found[0]


def test_start_and_end_are_among_the_tokens_that_are_compared(good: Path) -> None:
    content = (good / "tokenizer.json").read_bytes()
    assert {START, END, "def_of"} <= set(readers.added_texts(content))
