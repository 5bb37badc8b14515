"""Writes a checkpoint's tokenizer into an artifact: for the driver, and for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...console.progress import say
from ...runtime.contract import TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.manifest import to_json
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.kinds import KINDS
from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE, Vocabulary
from ..files.held_files import HeldFile
from ..files.metadata_fields import read_json_object
from ..formats.checkpoint import Checkpoint
from ..published_tokenizer.chat_templates import published_templates
from ..published_tokenizer.json_parts import read_around, to_bytes, without_ends
from ..published_tokenizer.tokenizer_files import SETTINGS_FILE, PublishedTokenizer
from .added_tokens import with_added_tokens
from .carried_files import carried, written_anew
from .tokenizer import open_codec
from .tokenizer_json import NotExpressible, TokenizerJson, first_difference
from .tokenizer_settings import correct_settings, settings_of_json, settings_of_model

AS_PUBLISHED, MADE, LEFT_OUT = "as published", f"made from {TOKENIZER_FILE}", "left out: "
# The format has two ways to put a space in front of the first stretch alone. transformers and
# transformers.js read both; onnxruntime-genai 0.18.0 reads neither.
SPACED = (
    f"{MADE}; text after a control token gets a space in front, as with legacy: true, though the "
    "checkpoint's settings have legacy: false"
)


def write_tokenizer(checkpoint: Checkpoint, artifact: Path, vocabulary: Vocabulary) -> str:
    """Write the tokenizer into an artifact's folder: for our driver, and for other runtimes.

    Where the driver reads a SentencePiece model, ``tokenizer.json`` is the published one if it
    encodes and decodes the probe texts, and every piece, as that model does. Otherwise it is made
    from the model and compared with it on the same texts. ``tokenizer_config.json``, which has
    chat templates, is written in all cases.

    Returns:
        Where ``tokenizer.json`` comes from, or why it was left out: ``AS_PUBLISHED``, ``MADE``,
        ``SPACED`` or ``LEFT_OUT`` with the reason.

    Raises:
        CheckpointError: no tokenizer, or not one that the driver reads.
    """
    tokenizer = with_added_tokens(checkpoint.read_tokenizer(), checkpoint.config)
    codec = open_codec(tokenizer)
    for name, file in tokenizer.files_beside.items():
        path = artifact / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(carried(file))
    model, origin = tokenizer.model, tokenizer.made_from
    if tokenizer.kind != SENTENCEPIECE:
        model, origin = _without_ends(model, origin, tokenizer)
        model = written_anew(model, what=tokenizer.path)
    (artifact / KINDS[tokenizer.kind].file).write_bytes(model)
    correct_settings(artifact, vocabulary, codec, source=tokenizer.path)
    most = checkpoint.config.max_position_embeddings
    if tokenizer.why_not_sentencepiece is not None:
        say(
            f"{tokenizer.path}: the driver reads tokenizer.json and needs the package tokenizers, "
            f"since {tokenizer.why_not_sentencepiece}"
        )
    if tokenizer.tokenizer_json is not None:
        beside, origin = _without_ends(tokenizer.tokenizer_json, origin, tokenizer)
        (artifact / TOKENIZER_JSON_FILE).write_bytes(beside)
    elif tokenizer.kind == SENTENCEPIECE:
        return _write_beside_model(tokenizer, codec, artifact, vocabulary, max_positions=most)
    if SETTINGS_FILE not in tokenizer.files_beside:
        made = settings_of_json(codec, vocabulary, max_positions=most)
        content = to_json({**tokenizer.settings, **made})
        (artifact / SETTINGS_FILE).write_text(content, encoding="utf-8")
    if origin is None:
        return AS_PUBLISHED
    if tokenizer.made_from is not None:
        say(f"{tokenizer.path.with_name(TOKENIZER_JSON_FILE)}: made from {tokenizer.made_from}")
    return f"made from {origin}"


def _without_ends(
    content: bytes, origin: str | None, tokenizer: PublishedTokenizer
) -> tuple[bytes, str | None]:
    """A ``tokenizer.json`` that ends no text, as the driver ends none; and where it comes from."""
    found, ends = without_ends(content)
    if not ends:
        return content, origin
    path = tokenizer.path.with_name(TOKENIZER_JSON_FILE)
    say(
        f"{path}: ends a text with {', '.join(ends)}, which a prompt must not; the artifact's "
        "tokenizer.json ends it with nothing"
    )
    return found, f"{origin or TOKENIZER_JSON_FILE}, without its end of a text"


def _write_beside_model(
    tokenizer: PublishedTokenizer,
    codec: Codec,
    artifact: Path,
    vocabulary: Vocabulary,
    *,
    max_positions: int,
) -> str:
    """Write ``tokenizer.json`` and its settings beside a SentencePiece model."""
    published, settings = (
        tokenizer.files_beside.get(name) for name in (TOKENIZER_JSON_FILE, SETTINGS_FILE)
    )
    if published is not None:
        difference = _difference(published, codec, vocabulary)
        if difference is None and settings is not None:
            return AS_PUBLISHED
        say(f"{published}: {difference or 'has no settings beside it'}; it is made anew")
    template = tokenizer.settings.get("chat_template")
    own: dict[str, Any] = {} if template is None else {"chat_template": template}
    if settings is not None:
        own = read_json_object(artifact / SETTINGS_FILE)
    path = artifact / TOKENIZER_JSON_FILE
    try:
        made = TokenizerJson(
            tokenizer.model, vocabulary, reads_control=bool(published_templates(tokenizer))
        )
        difference = first_difference(made.tokenizer(), codec)
        if difference is not None:
            raise NotExpressible(difference)
    except NotExpressible as why:
        say(f"{tokenizer.path}: {TOKENIZER_JSON_FILE} is left out, since {why}")
        path.unlink(missing_ok=True)
        if settings is None:
            ours = settings_of_model(codec, vocabulary, max_positions=max_positions)
            content = to_json({**tokenizer.settings, **ours})
            (artifact / SETTINGS_FILE).write_text(content, encoding="utf-8")
        return f"{LEFT_OUT}{why}"
    path.write_bytes(to_bytes(made.tokenizer()))
    ours = made.settings(max_positions=max_positions)
    end = {"eos_token": own["eos_token"]} if own.get("eos_token") is not None else {}
    (artifact / SETTINGS_FILE).write_text(to_json({**own, **ours, **end}), encoding="utf-8")
    if made.reads_control and own.get("legacy") is False:
        say(f"{tokenizer.path.with_name(TOKENIZER_JSON_FILE)}: {SPACED}")
        return SPACED
    return MADE


def _difference(published: HeldFile, codec: Codec, vocabulary: Vocabulary) -> str | None:
    """How a published ``tokenizer.json`` differs from SentencePiece; None where it does not."""
    try:
        found = parse_tokenizer_json(published.read_bytes())
    except ValueError as error:
        return f"cannot be read ({error})"
    start = vocabulary.prompt_start
    before, after = read_around(published.read_bytes()) or ([], [])
    if before != start:
        return f"begins a text with {before}, the settings beside it say {start}"
    if after:
        return f"ends a text with {after}, which a prompt must not"
    return first_difference(found, codec)
