"""Start and end tokens of a checkpoint: one rule for the driver, the parity gate and calibration.

Start: the token that transformers puts in front of a prompt: the tokenizer's, never
``config.json``'s ``bos_token_id``.
End: ``generation_config.json``'s ``eos_token_id``, else ``config.json``'s, else the tokenizer's.
"""

from __future__ import annotations

from pathlib import Path

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.tokenizers.protocol import Codec
from ...runtime.untrusted.fields import shown
from ..files.links import refuse_foreign
from ..files.metadata_fields import read_json_object, token_ids
from ..formats.checkpoint import Checkpoint
from ..published_tokenizer.json_parts import read_around
from ..published_tokenizer.spelling import TokenTexts, text_of
from ..published_tokenizer.tokenizer_files import SETTINGS_FILE, PublishedTokenizer

GENERATION_FILE = "generation_config.json"


def start_token(tokenizer: PublishedTokenizer, codec: Codec) -> tuple[int | None, bool]:
    """The start token, and whether prompts begin with it.

    A published ``tokenizer.json`` decides, as in transformers; without one the ``bos_token`` and
    ``add_bos_token`` of ``tokenizer_config.json`` do. Where neither file says it, prompts begin
    with the SentencePiece model's start token, as llama.cpp has it and as transformers documents
    it for ``LlamaTokenizer``.

    Returns:
        The token, None where the tokenizer has none; and whether prompts begin with it.

    Raises:
        CheckpointError: several start tokens, or a ``bos_token`` that is needed and is not a token
            of the tokenizer.

    Source: transformers 5.23, ``PreTrainedTokenizerBase._from_pretrained`` and
        ``TokenizersBackend.update_post_processor``.
    """
    token = _named("bos_token", tokenizer, codec)
    published = tokenizer.files_beside.get(TOKENIZER_JSON_FILE)
    around = None if published is None else read_around(published.read_bytes())
    if around is not None:
        before = around[0]
        if len(before) > 1:
            raise CheckpointError(
                f"{published}: begins a text with {before}, expected one start token or none; "
                "prompts with several are not supported by this version"
            )
        return (before[0], True) if before else (token, False)
    if token is None or tokenizer.adds_bos is False:
        return token, False
    if token < 0:
        raise _unknown("bos_token", tokenizer, codec)
    return token, True


def end_tokens(
    checkpoint: Checkpoint,
    tokenizer: PublishedTokenizer,
    codec: Codec,
) -> tuple[int, ...]:
    """The end tokens, the first of them the one to pad with; empty where nothing names any.

    Raises:
        ConfigError: ``generation_config.json`` is not JSON, or ``eos_token_id`` is not one token
            id or a list of them.
        CheckpointError: the tokenizer's ``eos_token`` is needed and is not one of its tokens; or
            ``generation_config.json`` is a link out of the checkpoint.

    Source: transformers 5.23, ``GenerationConfig.from_pretrained``, which ``generate`` stops by.
    """
    published = checkpoint.beside(GENERATION_FILE)
    if published is not None:
        refuse_foreign(published.path)  # an artifact carries what it says
        try:
            found = token_ids(read_json_object(published), "eos_token_id")
        except ConfigError as error:
            message = str(error).removeprefix(f"{published}: ")
            raise ConfigError(f"{published}: {message}") from error.__cause__
        if found:
            return _of_model(found, checkpoint, named_in=published.path)
    if checkpoint.config.eos_token_ids:
        path = checkpoint.path / checkpoint.published.described_in
        return _of_model(checkpoint.config.eos_token_ids, checkpoint, named_in=path)
    token = _named("eos_token", tokenizer, codec)
    if token is None:
        return ()
    if token < 0:
        raise _unknown("eos_token", tokenizer, codec)
    return (token,)


def _of_model(
    found: tuple[int, ...], checkpoint: Checkpoint, *, named_in: Path
) -> tuple[int, ...]:
    size = checkpoint.config.vocab_size
    if (largest := max(found)) >= size:
        raise ConfigError(
            f"{named_in}: eos_token_id has {largest}, expected a token below {size}, as many as "
            "the model scores; correct or remove eos_token_id"
        )
    return tuple(dict.fromkeys(found))


_UNKNOWN = -1  # a named token that the tokenizer does not have


def _named(name: str, tokenizer: PublishedTokenizer, codec: Codec) -> int | None:
    """A special token of the settings beside a tokenizer, else the SentencePiece model's own."""
    if name not in tokenizer.settings:
        return codec.start_token if name == "bos_token" else codec.end_token
    text = text_of(tokenizer.settings[name])
    if text is None:
        return None
    token = TokenTexts(codec, tokenizer.settings).find(text)
    return _UNKNOWN if token is None else token


def _unknown(name: str, tokenizer: PublishedTokenizer, codec: Codec) -> CheckpointError:
    return CheckpointError(
        f"{tokenizer.path.with_name(SETTINGS_FILE)}: {name} is "
        f"{shown(tokenizer.settings[name])}, expected one of the {len(codec)} tokens of "
        f"{tokenizer.path.name}; correct it, or copy both files from the same checkpoint"
    )
