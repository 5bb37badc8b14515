"""Make an artifact's tokenizer_config.json and special_tokens_map.json name its own tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...console.progress import say
from ...runtime.manifest import to_json
from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.vocabulary import Vocabulary
from ...runtime.untrusted.fields import shown
from ..files.metadata_fields import read_json_object
from ..published_tokenizer.chat_templates import FOLDER as TEMPLATES_FOLDER
from ..published_tokenizer.chat_templates import templates_in_settings
from ..published_tokenizer.spelling import TokenTexts, text_of
from ..published_tokenizer.tokenizer_files import MAP_FILE, SETTINGS_FILE, TEMPLATE_FILE
from .special_tokens import GENERATION_FILE

_END = b"eos_token"  # as a template names it


def correct_settings(
    folder: Path,
    vocabulary: Vocabulary,
    codec: Codec,
    *,
    source: Path,
) -> None:
    """Correct start and end tokens in both files of an artifact's folder, and print each change.

    A file without a change keeps its bytes. An ``eos_token`` that a chat template writes stays,
    since the template would write another text.

    Args:
        folder: the artifact's.
        vocabulary: start and end tokens.
        codec: the tokenizer beside the files.
        source: file that the tokenizer was read from, which the printed lines name.
    """
    read = (
        read_json_object(folder / name) if (folder / name).is_file() else {}
        for name in (SETTINGS_FILE, MAP_FILE)
    )
    settings, named = read
    names = _Names(vocabulary, codec, settings, writes_end=_writes_end(folder, settings))
    for name, own, wanted in (
        (SETTINGS_FILE, settings, names.of_settings(settings)),
        (MAP_FILE, named, names.of_tokens(named)),
    ):
        changes = {key: value for key, value in wanted.items() if own[key] != value}
        for key, value in changes.items():
            published = source.with_name(name)
            say(f"{published}: {key} is {shown(own[key])}; the artifact has {shown(value)}")
        if changes:
            (folder / name).write_text(to_json({**own, **changes}), encoding="utf-8")
    if end := names.end_of_template_alone(settings):
        say(
            f"{source.with_name(SETTINGS_FILE)}: eos_token is {shown(end)}, which a chat template "
            "writes, and generation does not end with it, as in transformers; to end with it, "
            f"add its id to eos_token_id of {GENERATION_FILE} and export again"
        )


def _writes_end(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a chat template, of a file or of the settings, writes ``eos_token``."""
    paths = [folder / TEMPLATE_FILE, *(folder / TEMPLATES_FOLDER).glob("*")]
    contents = [path.read_bytes() for path in paths if path.is_file()]
    contents += templates_in_settings(settings).values()
    return any(_END in content for content in contents)


def settings_of_json(
    codec: Codec, vocabulary: Vocabulary, *, max_positions: int
) -> dict[str, Any]:
    """``tokenizer_config.json`` for a ``tokenizer.json`` that was published without one."""
    # This class reads tokenizer.json as it is.
    return _settings("PreTrainedTokenizerFast", codec, vocabulary, max_positions)


def settings_of_model(
    codec: Codec, vocabulary: Vocabulary, *, max_positions: int
) -> dict[str, Any]:
    """``tokenizer_config.json`` for a SentencePiece model that has no ``tokenizer.json``."""
    adds = {"add_bos_token": vocabulary.add_bos_token, "add_eos_token": False}
    return {**_settings("LlamaTokenizer", codec, vocabulary, max_positions), **adds}


def _settings(
    name: str, codec: Codec, vocabulary: Vocabulary, max_positions: int
) -> dict[str, Any]:
    """Settings of a class of transformers, by its name."""
    texts = TokenTexts(codec, {})
    ends = vocabulary.eos_token_ids
    named = {"bos_token": vocabulary.bos_token_id, "eos_token": next(iter(ends), None)}
    return {
        "tokenizer_class": name,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
        **{name: text for name, token in named.items() if (text := texts.text(token)) is not None},
    }


class _Names:
    """The right values of the keys that the settings have."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        codec: Codec,
        settings: Mapping[str, Any],
        *,
        writes_end: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._texts = TokenTexts(codec, settings)
        self._writes_end = writes_end  # whether a chat template writes eos_token

    def of_settings(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """For ``tokenizer_config.json``: tokens, and whether they are added to a prompt."""
        around = {"add_bos_token": self._vocabulary.add_bos_token, "add_eos_token": False}
        return {
            **self.of_tokens(own),
            **{name: value for name, value in around.items() if own.get(name) is not None},
        }

    def of_tokens(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """For start and end tokens alone."""
        found: dict[str, Any] = {}
        start = self._texts.text(self._vocabulary.bos_token_id)
        if text_of(own.get("bos_token")) not in (None, start) and start is not None:
            found["bos_token"] = start
        end = text_of(own.get("eos_token"))
        texts = [self._texts.text(number) for number in self._vocabulary.eos_token_ids]
        if end is not None and end not in texts and not self._writes_end:
            found["eos_token"] = next(filter(None, texts), own["eos_token"])
        return found

    def end_of_template_alone(self, own: Mapping[str, Any]) -> str | None:
        """An ``eos_token`` that stays for a chat template's sake, and is no end token; or None."""
        end = text_of(own.get("eos_token"))
        ends = {self._texts.text(number) for number in self._vocabulary.eos_token_ids}
        return end if self._writes_end and end not in ends else None
