"""The programs that read tokenizers: the driver, ``tokenizers`` and ``transformers``."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ...export.published_tokenizer.json_parts import SHORT_TEXTS, around_text, read_around
from ...export.published_tokenizer.probe_texts import PROBE_TEXTS
from ...export.published_tokenizer.tokenizer_files import PublishedTokenizer
from ...export.tokenizer.tokenizer import CheckpointTokenizer
from ...runtime.contract import TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.loading.open_tokenizer import find_kind, read_tokenizer
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.kinds import KINDS
from ...runtime.tokenizers.panics import panics_as
from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE, Vocabulary
from .reading import Reading

EXPORT, DRIVER = "the export", "the driver"
TOKENIZERS_PACKAGE, TRANSFORMERS = "tokenizers", "transformers"
_READ = (TOKENIZER_JSON_FILE, TOKENIZER_FILE)  # by transformers, of what a tokenizer is read from


def read_checkpoint(checkpoint: CheckpointTokenizer) -> Reading:
    """The checkpoint's tokenizer, as the export reads it."""
    kind = KINDS[checkpoint.vocabulary.kind]
    start = checkpoint.vocabulary.prompt_start
    return _of_codec(checkpoint.codec, file=kind.file, program=EXPORT, start=start)


def read_driver(artifact: Path, vocabulary: Vocabulary, *, vocab_size: int) -> Reading:
    """An artifact's tokenizer, as the driver reads it.

    Raises:
        ContractError: as ``read_tokenizer``.
    """
    kind = find_kind(artifact, vocabulary)
    read_tokenizer(artifact, vocabulary, vocab_size=vocab_size)  # refuses what the driver refuses
    content = (artifact / kind.file).read_bytes()
    codec = kind.parse(content, vocabulary.added_tokens)
    start = vocabulary.prompt_start
    return _of_codec(codec, file=kind.file, program=DRIVER, start=start)


def read_sidecar(content: bytes) -> Reading:
    """A ``tokenizer.json``, as the package ``tokenizers`` reads it.

    Raises:
        ValueError: the package does not read it.
    """
    tokenizer = parse_tokenizer_json(content)
    around = read_around(content)
    added = tokenizer.get_added_tokens_decoder()  # the model spells them as they are normalized
    return Reading(
        file=TOKENIZER_JSON_FILE,
        program=TOKENIZERS_PACKAGE,
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        decode=lambda ids: _decoded(tokenizer, added, ids),
        piece=lambda token: _content(added.get(token)) or tokenizer.id_to_token(token),
        start=None if around is None else around[0],
        end=None if around is None else around[1],
    )


def imports_transformers(published: PublishedTokenizer) -> bool:
    """Whether ``read_transformers`` imports it, and so torch."""
    return published.path.name in _READ and _is_installed()


def _is_installed() -> bool:
    return importlib.util.find_spec(TRANSFORMERS) is not None


def read_transformers(published: PublishedTokenizer) -> Reading | str | None:
    """A checkpoint's tokenizer, as ``transformers`` reads the folder.

    Returns:
        None where transformers reads other files than the driver. A message where it is not
        installed, or does not read the folder.
    """
    if published.path.name not in _READ:
        return None
    if not _is_installed():
        return f"{TRANSFORMERS} is not installed"
    import transformers

    folder = published.path.parent
    quiet = logging.getLogger(TRANSFORMERS)
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
            raise TypeError(f"its class is {type(tokenizer).__name__}, which reads other files")
        added = tokenizer.added_tokens_decoder
        # CodeLlamaTokenizer makes a prompt for infilling of a text that has it.
        fill = getattr(tokenizer, "fill_token", None)
        around = around_text(
            lambda text: _with_sequences(tokenizer, text), (*SHORT_TEXTS, *PROBE_TEXTS)
        )
    except Exception as error:  # what transformers raises has no type of its own
        first = str(error).strip().partition("\n")[0]
        return f"transformers {transformers.__version__} does not read it ({first})"
    finally:
        quiet.setLevel(level)

    return Reading(
        file=published.path.name,
        program=TRANSFORMERS,
        encode=lambda text: None if fill and fill in text else _encoded(tokenizer, text),
        decode=lambda ids: _decoded(tokenizer, added, ids, clean_up_tokenization_spaces=False),
        piece=lambda token: _content(added.get(token)) or _piece(tokenizer, token),
        start=None if around is None else around[0],
    )


def special_that_is_shown(tokenizer: Tokenizer) -> dict[int, str]:
    """Special tokens that ``tokenizers`` decodes to text all the same, by id.

    Those are such as have ``normalized`` true, where a normalizer changes their texts. The driver
    leaves them out.

    Raises:
        ValueError: the package failed.
    """
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    with panics_as(ValueError, "{said}"):
        return {
            token: one.content
            for token, one in added
            if one.special and tokenizer.decode([token], skip_special_tokens=True)
        }


def without_text(found: Reading, tokens: Collection[int]) -> Reading:
    """The same reading, where these tokens are special: they add no text.

    transformers shows a token that ``added_tokens.json`` alone lists, also where a chat template
    writes it; the export takes such a token for a special one.
    """
    return dataclasses.replace(
        found, decode=lambda ids: found.decode([one for one in ids if one not in tokens])
    )


def as_rebuilt(rebuilt: Tokenizer, expected: Reading) -> Reading:
    """What transformers must give where it takes only the vocabulary from the published file.

    Args:
        rebuilt: the tokenizer that its class makes of this vocabulary.
        expected: the checkpoint's tokenizer, as the export reads it.
    """
    reading = read_sidecar(rebuilt.to_str().encode())
    return dataclasses.replace(reading, start=expected.start)


def beside_sentencepiece(
    expected: Reading, codec: Codec, *, listed: Iterable[str], added: Iterable[str]
) -> Reading:
    """What a ``tokenizer.json`` beside a SentencePiece model must give.

    Where it lists the model's control pieces, it reads them in every text, for chat templates.
    Such a piece alone has its id; other texts that spell one are not compared, since spaces beside
    it differ. Where it does not list them, they are read as text.

    Args:
        expected: the checkpoint's tokenizer, as the export reads it.
        codec: the same.
        listed: texts of the added tokens of the ``tokenizer.json``.
        added: texts of the tokens that were added to the model; both files read them alike.
    """
    added, listed = frozenset(added), frozenset(listed)
    pieces = filter(None, map(codec.piece, range(len(codec))))
    control = {
        piece
        for piece in pieces
        if piece not in added and codec.encode(piece) != codec.encode(piece, allow_special=True)
    }

    def encode(text: str) -> list[int] | None:
        spelled = {piece for piece in control if piece in text}
        if not spelled:
            return expected.encode(text)
        if not spelled.isdisjoint(listed):
            token = codec.find(text) if text in spelled else None
            return None if token is None else [token]
        return None if any(one in text for one in added) else codec.encode(text)

    def decode(tokens: Sequence[int]) -> str:
        return expected.decode([token for token in tokens if codec.piece(token) not in control])

    return dataclasses.replace(expected, encode=encode, decode=decode)


def added_texts(content: bytes) -> list[str]:
    """Texts of the tokens that a ``tokenizer.json`` adds to its model, by id.

    Raises:
        ValueError: ``tokenizers`` does not read it.
    """
    added = parse_tokenizer_json(content).get_added_tokens_decoder()
    return [added[token].content for token in sorted(added)]


def is_sentencepiece(vocabulary: Vocabulary) -> bool:
    """Whether the driver reads a SentencePiece model beside the ``tokenizer.json``."""
    return vocabulary.kind == SENTENCEPIECE


def _of_codec(codec: Codec, *, file: str, program: str, start: list[int]) -> Reading:
    return Reading(
        file=file,
        program=program,
        encode=lambda text: codec.encode(text, allow_special=True),
        decode=codec.decode,
        piece=lambda token: codec.piece(token) if token < len(codec) else None,
        start=start,
        end=[],
    )


def _content(added: Any) -> str | None:
    return None if added is None else str(added.content)


def _decoded(tokenizer: Any, added: Mapping[int, Any], ids: Sequence[int], **flags: bool) -> str:
    """Text of tokens, special ones left out; see ``special_that_is_shown``."""
    kept = [token for token in ids if token not in added or not added[token].special]
    return str(tokenizer.decode(kept, skip_special_tokens=True, **flags)) if kept else ""


def _encoded(tokenizer: Any, text: str) -> list[int]:
    """Token ids by transformers, without start and end tokens."""
    flags = {"add_special_tokens": False, "split_special_tokens": False}
    return [int(token) for token in tokenizer(text, **flags)["input_ids"]]


def _with_sequences(tokenizer: Any, text: str) -> tuple[list[int], list[int | None]]:
    """Token ids by transformers, and the sequence of each: None for start and end tokens."""
    found = tokenizer(text, split_special_tokens=False)
    return [int(token) for token in found["input_ids"]], list(found.sequence_ids(0))


def _piece(tokenizer: Any, token: int) -> str | None:
    found = tokenizer.convert_ids_to_tokens(token)
    return None if found is None else str(found)
