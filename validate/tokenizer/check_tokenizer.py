"""Compares an artifact's tokenizer and chat templates with the checkpoint's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...export.formats.checkpoint import Checkpoint
from ...export.published_tokenizer.byte_level.agreement import MIXED_CASE
from ...export.published_tokenizer.chat_templates import published_templates
from ...export.published_tokenizer.listed_added_tokens import special_without_flags
from ...export.published_tokenizer.probe_texts import PROBE_TEXTS, around
from ...export.tokenizer.added_tokens import with_added_tokens
from ...export.tokenizer.in_transformers import note_of_transformers, read_rebuilt
from ...export.tokenizer.tokenizer import CheckpointTokenizer
from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.sentencepiece import SPACE
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE, TOKENIZERS, Vocabulary
from ..verdict import Check
from .readers import (
    TOKENIZERS_PACKAGE,
    added_texts,
    as_rebuilt,
    beside_sentencepiece,
    is_sentencepiece,
    read_checkpoint,
    read_driver,
    read_sidecar,
    read_transformers,
    special_that_is_shown,
    without_text,
)
from .reading import Reading, differences, name_of
from .templates import first_other, written_templates

KIND = "tokenizer"
FIGURE = "differing"
TEMPLATES = "chat templates"
_MOST_NAMED = 3  # differences, in one note
_LEFT_OUT = "the artifact has no tokenizer.json, so none was compared"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerChecks:
    """One check per reading of the tokenizer, and one of the chat templates."""

    checks: list[Check]
    notes: list[str]  # what was not compared, and why
    not_compared: str | None = None  # the note on transformers, where it gave no tokens to compare


def check_tokenizer(
    artifact: Path, vocabulary: Vocabulary, checkpoint: Checkpoint
) -> TokenizerChecks:
    """Compare the tokenizer as each program reads it with the checkpoint's, and the templates.

    Args:
        artifact: a folder with the tokenizer's files; it needs no manifest.
        vocabulary: as the manifest has it, or will have it.
        checkpoint: what the artifact is made from.

    Raises:
        CheckpointError, ConfigError: the checkpoint's tokenizer cannot be read.
        ContractError: the driver does not read the artifact's.
    """
    own = CheckpointTokenizer.read(checkpoint)
    expected, size = read_checkpoint(own), len(own.codec)
    published, sidecar = checkpoint.read_tokenizer(), artifact / TOKENIZER_JSON_FILE
    content = sidecar.read_bytes() if sidecar.is_file() else None
    added = _added(content)
    spelled = dict.fromkeys([*_published_added(own, checkpoint), *added])
    texts = [*PROBE_TEXTS, *MIXED_CASE, *around(spelled)]
    driver = read_driver(artifact, vocabulary, vocab_size=checkpoint.config.vocab_size)
    checks = [_judged(driver, expected, texts, size=size, path=artifact)]
    notes, not_compared = [], None
    if content is None:
        notes.append(_LEFT_OUT)
    else:
        wanted = expected
        if is_sentencepiece(vocabulary):
            wanted = beside_sentencepiece(expected, own.codec, listed=added, added=_beside(own))
        checks.append(_sidecar(content, wanted, texts, size=size, path=artifact))
        notes += _note_of_shown(content)
    others = read_transformers(published)
    if isinstance(others, str):
        not_compared = f"{published.path.name}: {others}, so its tokens were not compared"
        notes.append(not_compared)
    elif others is not None and own.vocabulary.kind == SENTENCEPIECE:
        wanted = beside_sentencepiece(expected, own.codec, listed=_pieces(own), added=_beside(own))
        notes += _note_of_other_reading(others, wanted, texts, size=size, path=published.path)
    elif others is not None:
        rebuilt = read_rebuilt(checkpoint)
        wanted = expected if rebuilt is None else as_rebuilt(rebuilt, expected)
        others = without_text(others, special_without_flags(published))
        uncorrected = _uncorrected(checkpoint, expected)
        if uncorrected is not None and any(differences(others, wanted, texts, size=size)):
            wanted = uncorrected
            notes.append(
                f"{published.path}: transformers reads it with its wrong split regex, which the "
                "artifact's tokenizer.json has corrected; with fix_mistral_regex=True, "
                "transformers 5 corrects it too"
            )
        checks.append(_judged(others, wanted, texts, size=size, path=published.path.parent))
        notes += filter(None, [note_of_transformers(checkpoint)])
    checks.append(_templates(artifact, published_templates(published)))
    return TokenizerChecks(checks=checks, notes=notes, not_compared=not_compared)


def _uncorrected(checkpoint: Checkpoint, expected: Reading) -> Reading | None:
    """A published file whose split regex the export corrects, as it was; None: it is not."""
    published = checkpoint.read_tokenizer()
    if published.uncorrected is None:
        return None
    own = dataclasses.replace(published, model=published.uncorrected)
    content = with_added_tokens(own, checkpoint.config).model
    return as_rebuilt(parse_tokenizer_json(content), expected)


def _note_of_other_reading(
    found: Reading, expected: Reading, texts: list[str], *, size: int, path: Path
) -> Iterator[str]:
    """A note on what transformers reads otherwise than SentencePiece.

    transformers 5 makes a vocabulary and merges of the model: in the order of ids, whatever their
    scores; a space that begins a text is written once, and by some classes none is put in front.

    Source: transformers 5.23, ``SentencePieceExtractor.extract``, ``LlamaTokenizer.__init__`` and
        ``SpmConverter.build_tokenizer_from_spm_proto``.
    """
    spaces_last = sorted(texts, key=lambda text: text.startswith((" ", SPACE)))
    first = [*islice(differences(found, expected, spaces_last, size=size), _MOST_NAMED)]
    if first:
        yield (
            f"{path.name}: nothing is wrong with the artifact, whose tokens are those of "
            "SentencePiece, which trained it; only transformers reads the file otherwise: "
            f"{'; '.join(map(str, first))}"
        )


def _note_of_shown(content: bytes) -> Iterator[str]:
    """A note on special tokens that other programs decode to text."""
    try:
        shown = special_that_is_shown(parse_tokenizer_json(content))
    except ValueError:
        return  # the check of that file fails, and says why
    if shown:
        names = ", ".join(map(repr, islice(shown.values(), _MOST_NAMED)))
        yield (
            f"{TOKENIZER_JSON_FILE}: tokenizers and transformers decode {names} to text though "
            "special, since normalized is true; the driver gives no text for them"
        )


def _beside(own: CheckpointTokenizer) -> list[str]:
    """Texts of the tokens that are added to a SentencePiece model."""
    return [one.text for one in own.vocabulary.added_tokens.tokens]


def _pieces(own: CheckpointTokenizer) -> list[str]:
    return [own.codec.piece(token) for token in range(len(own.codec))]


def _published_added(own: CheckpointTokenizer, checkpoint: Checkpoint) -> list[str]:
    """Texts of the added tokens of a checkpoint."""
    tokenizer = with_added_tokens(checkpoint.read_tokenizer(), checkpoint.config)
    return added_texts(tokenizer.model) if tokenizer.kind == TOKENIZERS else _beside(own)


def _added(content: bytes | None) -> list[str]:
    try:
        return [] if content is None else added_texts(content)
    except ValueError:
        return []  # the check of that file fails, and says why


def _sidecar(
    content: bytes, expected: Reading, texts: list[str], *, size: int, path: Path
) -> Check:
    try:
        return _judged(read_sidecar(content), expected, texts, size=size, path=path)
    except ValueError as error:
        name = name_of(TOKENIZER_JSON_FILE, TOKENIZERS_PACKAGE)
        other = f"{path / TOKENIZER_JSON_FILE}: {TOKENIZERS_PACKAGE} does not read it ({error})"
        return _check(name, [other], compared=len(texts) + size + 1)


def _judged(
    found: Reading, expected: Reading, texts: list[str], *, size: int, path: Path
) -> Check:
    """The check of one reading; its failure names the first difference."""
    file = path / found.file
    other = [f"{file}: {one}" for one in differences(found, expected, texts, size=size)]
    return _check(found.name, other, compared=len(texts) + size + 1)


def _check(name: str, other: list[str], *, compared: int) -> Check:
    more = f"; {len(other)} of {compared} strings and tokens differ" if len(other) > 1 else ""
    return Check(
        name=name,
        kind=KIND,
        figures={FIGURE: len(other), "compared": compared},
        bounds={FIGURE: 0},
        failures=(f"{other[0]}{more}",) if other else (),
    )


def _templates(artifact: Path, expected: Mapping[str, bytes]) -> Check:
    """The check of the templates, byte for byte."""
    found = written_templates(artifact)
    other = [
        f"{artifact / place}: {difference}"
        for place in sorted({*expected, *found})
        if (difference := first_other(found.get(place), expected.get(place)))
    ]
    return _check(TEMPLATES, other, compared=max(1, len({*expected, *found})))
