"""Planted faults of the tokenizer and the chat templates; the graph stays as it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...export.published_tokenizer.json_parts import read_around
from ...export.published_tokenizer.sentencepiece_model import parse
from ...export.published_tokenizer.tokenizer_files import (
    SETTINGS_FILE,
    TEMPLATE_FILE,
    PublishedTokenizer,
)
from ...export.tokenizer.added_tokens import added_ids
from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.manifest import read_manifest, write_manifest
from ...runtime.tokenizers.added_tokens import AddedToken
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE, TOKENIZERS
from ..planting import Fault

_RECIPE = "fp32-ort"


def _edited(artifact: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the artifact's tokenizer.json."""
    path = artifact / TOKENIZER_JSON_FILE
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def _last_two(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    special = [one for one in content["added_tokens"] if one["special"]]
    return sorted(special, key=lambda one: int(one["id"]))[-2:]


def _added_exchanged(artifact: Path) -> None:
    """Exchange the ids of the last two special tokens."""

    def change(content: dict[str, Any]) -> None:
        one, other = _last_two(content)
        vocabulary = content["model"]["vocab"]
        one["content"], other["content"] = other["content"], one["content"]
        for token in (one, other):
            if token["content"] in vocabulary:
                vocabulary[token["content"]] = token["id"]

    _edited(artifact, change)


def _added_lost(artifact: Path) -> None:
    """The last special token is read as text."""
    _edited(artifact, lambda content: content["added_tokens"].remove(_last_two(content)[-1]))


def _driver_added(
    artifact: Path, change: Callable[[tuple[AddedToken, ...]], tuple[AddedToken, ...]]
) -> None:
    """Change what the driver adds to a SentencePiece model; the manifest lists it."""
    manifest = read_manifest(artifact)
    vocabulary = manifest.vocabulary
    added = vocabulary.added_tokens
    added = dataclasses.replace(added, tokens=change(added.tokens))
    vocabulary = dataclasses.replace(vocabulary, added_tokens=added)
    write_manifest(artifact, dataclasses.replace(manifest, vocabulary=vocabulary))


def _driver_exchanged(artifact: Path) -> None:
    """Exchange the ids of the last two tokens."""

    def change(tokens: tuple[AddedToken, ...]) -> tuple[AddedToken, ...]:
        *rest, one, other = tokens
        exchanged = dataclasses.replace(one, token=other.token)
        return (*rest, exchanged, dataclasses.replace(other, token=one.token))

    _driver_added(artifact, change)


def _driver_lost(artifact: Path) -> None:
    """The last token is read as text."""
    _driver_added(artifact, lambda tokens: tokens[:-1])


def _other_words(artifact: Path) -> None:
    """Words are cut by GPT-2's pattern instead of the model's own."""

    def change(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }

    _edited(artifact, change)


def _two_pieces(artifact: Path) -> None:
    """Exchange the ids of the two last tokens of the vocabulary."""

    def change(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        one, other = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]

    _edited(artifact, change)


def _start_flipped(artifact: Path) -> None:
    """The driver begins prompts with a start token where it must not, or the other way round."""
    manifest = read_manifest(artifact)
    vocabulary = manifest.vocabulary
    flipped = dataclasses.replace(vocabulary, add_bos_token=not vocabulary.add_bos_token)
    write_manifest(artifact, dataclasses.replace(manifest, vocabulary=flipped))


def _start_lost(artifact: Path) -> None:
    """Other runtimes put no start token in front of a prompt."""
    _edited(artifact, lambda content: content.update(post_processor=None))


def _end_added(artifact: Path) -> None:
    """Other runtimes put an end token behind a prompt."""
    vocabulary = read_manifest(artifact).vocabulary
    start, end = vocabulary.prompt_start, vocabulary.eos_token_ids[0]

    def change(content: dict[str, Any]) -> None:
        texts = {token: text for text, token in content["model"]["vocab"].items()}
        parts = [
            {"Sequence": {"id": "A", "type_id": 0}}
            if token is None
            else {"SpecialToken": {"id": texts[token], "type_id": 0}}
            for token in (*start, None, end)
        ]
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": [*parts, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                texts[token]: {"id": texts[token], "ids": [token], "tokens": [texts[token]]}
                for token in (*start, end)
            },
        }

    _edited(artifact, change)


def _template_lost(artifact: Path) -> None:
    (artifact / TEMPLATE_FILE).unlink(missing_ok=True)
    _settings(artifact, lambda content: content.pop("chat_template", None))


def _template_changed(artifact: Path) -> None:
    """A template gets one more line feed at its end."""
    path = artifact / TEMPLATE_FILE
    if path.is_file():
        path.write_bytes(path.read_bytes() + b"\n")
    _settings(
        artifact,
        lambda content: (
            content.update(chat_template=content["chat_template"] + "\n")
            if isinstance(content.get("chat_template"), str)
            else None
        ),
    )


def _settings(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = artifact / SETTINGS_FILE
    if path.is_file():
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")


def _has_added(tokenizer: PublishedTokenizer) -> bool:
    return tokenizer.kind == TOKENIZERS and len(added_ids(tokenizer)) > 1


def _adds_natively(tokenizer: PublishedTokenizer) -> bool:
    """Whether the driver itself adds several tokens to a SentencePiece model."""
    if tokenizer.kind != SENTENCEPIECE:
        return False
    pieces = len(parse(tokenizer.model).pieces)
    return sum(token >= pieces for token in added_ids(tokenizer)) > 1


def _has_template(tokenizer: PublishedTokenizer) -> bool:
    return TEMPLATE_FILE in tokenizer.files_beside or "chat_template" in tokenizer.settings


def _is_byte_level(tokenizer: PublishedTokenizer) -> bool:
    """Whether it cuts words by a pattern of its own, and spells bytes as characters."""
    if tokenizer.kind != TOKENIZERS:
        return False
    cut = json.loads(tokenizer.model).get("pre_tokenizer") or {}
    parts = cut.get("pretokenizers") or ()
    return "ByteLevel" in {part["type"] for part in parts}


def _is_sentencepiece(tokenizer: PublishedTokenizer) -> bool:
    return tokenizer.kind == SENTENCEPIECE


def _has_start(tokenizer: PublishedTokenizer) -> bool:
    """Whether prompts begin with a start token."""
    if tokenizer.kind == SENTENCEPIECE:
        return tokenizer.adds_bos is not False
    around = read_around(tokenizer.model)
    return around is not None and bool(around[0])


FAULTS = [
    Fault(
        name="tokenizer: the start token of prompts left out by the driver",
        recipe=_RECIPE,
        edit=_start_flipped,
        place="tokenizer.",
        cause="manifest.json: vocabulary.add_bos_token is False, expected True",
        applies_to_tokenizer=_has_start,
    ),
    Fault(
        name="tokenizer.json: the start token of prompts left out",
        recipe=_RECIPE,
        edit=_start_lost,
        place="tokenizer.json, as tokenizers reads it",
        cause="tokenizer.json: post_processor (none, expected ",
        applies_to_tokenizer=_has_start,
    ),
    Fault(
        name="tokenizer.json: an end token put behind prompts",
        recipe=_RECIPE,
        edit=_end_added,
        place="tokenizer.json, as tokenizers reads it",
        cause="tokenizer.json: post_processor ",
        applies_to_tokenizer=_has_start,
    ),
    Fault(
        name="tokenizer.json: the ids of two pieces exchanged",
        recipe=_RECIPE,
        edit=_two_pieces,
        place="tokenizer.json, as tokenizers reads it",
        cause="tokenizer.json: model is not the checkpoint's",
        applies_to_tokenizer=_is_sentencepiece,
    ),
    Fault(
        name="tokenizer.json: the ids of two added tokens exchanged",
        recipe=_RECIPE,
        edit=_added_exchanged,
        place="tokenizer.json, as the driver reads it",
        cause="tokenizer.json: added token",
        applies_to_tokenizer=_has_added,
    ),
    Fault(
        name="tokenizer.json: an added token lost",
        recipe=_RECIPE,
        edit=_added_lost,
        place="tokenizer.json, as the driver reads it",
        cause="is missing",
        applies_to_tokenizer=_has_added,
    ),
    Fault(
        name="manifest.json: the ids of two added tokens exchanged",
        recipe=_RECIPE,
        edit=_driver_exchanged,
        place="tokenizer.model, as the driver reads it",
        cause="manifest.json: vocabulary.added_tokens: ",
        applies_to_tokenizer=_adds_natively,
    ),
    Fault(
        name="manifest.json: an added token lost",
        recipe=_RECIPE,
        edit=_driver_lost,
        place="tokenizer.model, as the driver reads it",
        cause="is missing",
        applies_to_tokenizer=_adds_natively,
    ),
    Fault(
        name="tokenizer.json: words cut by GPT-2's pattern",
        recipe=_RECIPE,
        edit=_other_words,
        place="tokenizer.json, as the driver reads it",
        cause="pre_tokenizer (ByteLevel, expected Sequence) is not the checkpoint's",
        applies_to_tokenizer=_is_byte_level,
    ),
    Fault(
        name="the chat template lost",
        recipe=_RECIPE,
        edit=_template_lost,
        place="chat templates",
        cause="found no template",
        applies_to_tokenizer=_has_template,
    ),
    Fault(
        name="a line feed added to the chat template",
        recipe=_RECIPE,
        edit=_template_changed,
        place="chat templates",
        cause="found b'\\n', expected b''",
        applies_to_tokenizer=_has_template,
    ),
]
