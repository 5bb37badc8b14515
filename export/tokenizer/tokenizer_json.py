"""Write a SentencePiece model as Hugging Face's ``tokenizer.json``.

Merges replace scores: the higher the score of two pieces' union, the earlier they merge. Replace
rules write spaces as the model does. A pre-tokenizer that splits nothing makes the whole text one
stretch; without one, onnxruntime-genai would split at spaces.

Control tokens are listed in ``tokenizer_config.json`` and not in ``tokenizer.json``, so that text
which spells a control token is encoded as text, as SentencePiece does. Decoding leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.sentencepiece import SPACE
from ...runtime.tokenizers.vocabulary import Vocabulary
from ..published_tokenizer.json_parts import starts_with
from ..published_tokenizer.probe_texts import PROBE_TEXTS
from ..published_tokenizer.sentencepiece_model import BPE, KIND, parse, puts_spaces_in_front

_START, _END = r"(?<![\s\S])", r"(?![\s\S])"  # of the text, in words that every engine knows
_EVERYTHING = r"[\s\S]+"
_MANY = 1 << 16  # spaces to strip, where all are


class NotExpressible(Exception):  # noqa: N818 - a state, not an error
    """``tokenizer.json`` cannot express what the model does; the message says what."""


class TokenizerJson:
    """One SentencePiece model, for Hugging Face's two files."""

    def __init__(self, model: bytes, vocabulary: Vocabulary, *, reads_control: bool) -> None:
        """Read a model.

        Args:
            model: SentencePiece's ModelProto.
            vocabulary: start and end tokens, and whether prompts begin with one.
            reads_control: text that spells a control token becomes it, as chat templates need.

        Raises:
            NotExpressible: it is not a SentencePiece BPE model, changes characters, or merges in
                an order that no list of merges has. Only runs of one character may share a score.
        """
        self._proto = parse(model)
        self._vocabulary = vocabulary
        self.reads_control = reads_control
        self._ids = {each.piece: number for number, each in enumerate(self._proto.pieces)}
        _refuse_inexpressible(self._proto)
        bos = vocabulary.bos_token_id
        if vocabulary.add_bos_token and bos is not None and bos >= len(self._proto.pieces):
            raise NotExpressible(
                f"its start token {bos} is beyond its {len(self._proto.pieces)} pieces"
            )

    def tokenizer(self) -> Tokenizer:
        """What ``tokenizer.json`` holds.

        Source: sentencepiece, src/bpe_model.cc and src/normalizer.cc; Hugging Face's tokenizers.
        """
        spec, bos = self._proto.normalizer_spec, self._vocabulary.bos_token_id
        has_bytes = any(each.type == KIND.BYTE for each in self._proto.pieces)
        found = Tokenizer(
            models.BPE(
                vocab=self._ids,
                merges=list(self._merges()),
                unk_token=next(self._pieces(KIND.UNKNOWN), None),
                fuse_unk=True,
                byte_fallback=has_bytes,
            )
        )
        found.normalizer = normalizers.Sequence(list(self._normalizers()))
        found.pre_tokenizer = pre_tokenizers.Split(Regex(_EVERYTHING), "isolated")
        strips = _MANY if spec.remove_extra_whitespaces else int(spec.add_dummy_prefix)
        found.decoder = decoders.Sequence(
            [
                decoders.Replace(SPACE, " "),
                *([decoders.ByteFallback()] if has_bytes else []),
                decoders.Fuse(),
                *([decoders.Strip(" ", strips, 0)] if strips else []),
            ]
        )
        if self._vocabulary.add_bos_token and bos is not None:
            found.post_processor = starts_with(self._proto.pieces[bos].piece, bos)
        if self.reads_control:
            found.add_special_tokens([_special(piece) for piece in self._control()])
        return found

    def settings(self, *, max_positions: int) -> dict[str, Any]:
        """What ``tokenizer_config.json`` holds; ``max_positions`` is what a sequence may have."""
        control = list(self._control())
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        named = {
            "bos_token": self._piece(self._vocabulary.bos_token_id),
            "eos_token": self._piece(next(iter(self._vocabulary.eos_token_ids), None)),
            "unk_token": next(self._pieces(KIND.UNKNOWN), None),
        }
        as_text = {"additional_special_tokens": control, "split_special_tokens": True}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json as it is
            "add_bos_token": self._vocabulary.add_bos_token,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_positions,
            **{name: piece for name, piece in named.items() if piece is not None},
            "added_tokens_decoder": {
                str(self._ids[piece]): {"content": piece, "special": True, **flags}
                for piece in control
            },
            **({} if self.reads_control else as_text),
        }

    def _merges(self) -> Iterator[tuple[str, str]]:
        """Pairs of pieces whose union is a piece; the best score first.

        Of runs of one character that share a score, the longest is first: SentencePiece joins the
        leftmost pair, so that a run grows from its left end.
        """
        scores = {each.piece: each.score for each in self._proto.pieces if _can_merge(each)}
        found = [
            (-score, piece[:cut], piece[cut:])
            for piece, score in scores.items()
            for cut in range(1, len(piece))
            if piece[:cut] in scores and piece[cut:] in scores
        ]
        found.sort(key=self._order)
        return ((left, right) for _, left, right in found)

    def _order(self, merge: tuple[float, str, str]) -> tuple[float, int, int, int]:
        negated, left, right = merge
        return negated, -len(left + right), self._ids[left], self._ids[right]

    def _normalizers(self) -> Iterator[Any]:
        spec = self._proto.normalizer_spec
        if spec.remove_extra_whitespaces:
            yield normalizers.Replace(Regex(f"{_START} +"), "")
            yield normalizers.Replace(Regex(" {2,}"), " ")
        if spec.add_dummy_prefix:
            yield normalizers.Prepend(SPACE)
        yield normalizers.Replace(" ", SPACE)
        if spec.remove_extra_whitespaces:
            yield normalizers.Replace(Regex(f"{SPACE}+{_END}"), "")

    def _pieces(self, *kinds: int) -> Iterator[str]:
        return (each.piece for each in self._proto.pieces if each.type in kinds)

    def _control(self) -> Iterator[str]:
        """What text never becomes, and decoding leaves out."""
        return self._pieces(KIND.UNKNOWN, KIND.CONTROL)

    def _piece(self, number: int | None) -> str | None:
        is_known = number is not None and number < len(self._proto.pieces)
        return str(self._proto.pieces[number].piece) if is_known else None


def first_difference(
    found: Tokenizer,
    expected: Codec,
    texts: Iterable[str] | None = None,
) -> str | None:
    """Describe the first text that two tokenizers encode or decode differently; None: no text.

    Start tokens are not compared. The default texts are the probes and every piece, which needs
    each merge.
    """
    if texts is None:
        texts = (*PROBE_TEXTS, *map(expected.label, range(len(expected))))
    known = {token.content for token in found.get_added_tokens_decoder().values()}
    for text in texts:
        if any(token in text for token in known):
            continue  # the published tokenizer encodes it as the token on purpose
        tokens, wanted = found.encode(text, add_special_tokens=False).ids, expected.encode(text)
        if tokens != wanted:
            return f"{text!r} is {_shown(tokens)}, and {_shown(wanted)} in SentencePiece"
        if found.decode(tokens) != expected.decode(wanted):
            return f"{_shown(tokens)} is {found.decode(tokens)!r}, not {expected.decode(wanted)!r}"
    return None


def _refuse_inexpressible(proto: Any) -> None:
    """Refuse a model that the format cannot express."""
    if proto.trainer_spec.model_type != BPE:
        raise NotExpressible("its kind is not SentencePiece's BPE")
    for spec in (proto.normalizer_spec, proto.denormalizer_spec):
        if spec.precompiled_charsmap:
            raise NotExpressible("it changes characters, by a map of its own")
    if not puts_spaces_in_front(proto):
        raise NotExpressible("it writes spaces in another way")
    own = next((each for each in proto.pieces if each.type == KIND.USER_DEFINED), None)
    if own is not None:
        raise NotExpressible(
            f"it has user-defined pieces, such as {own.piece!r}, which SentencePiece never splits"
        )
    by_score: dict[float, Any] = {}
    for union in _unions(proto):
        if union.type == KIND.UNUSED:
            raise NotExpressible(
                f"it merges {union.piece!r} and, since that is unused, cuts it again"
            )
        equal = by_score.setdefault(union.score, union)
        if len({*equal.piece, *union.piece}) > 1 and equal is not union:
            raise NotExpressible(
                f"{equal.piece!r} and {union.piece!r} have one score: the leftmost merges first"
            )


def _unions(proto: Any) -> Iterator[Any]:
    """Pieces that two others merge into."""
    merged = (KIND.NORMAL, KIND.UNUSED)
    known = {each.piece for each in proto.pieces if each.type in merged}
    for each in proto.pieces:
        halves = ((each.piece[:cut], each.piece[cut:]) for cut in range(1, len(each.piece)))
        if each.piece in known and any(known.issuperset(pair) for pair in halves):
            yield each


def _can_merge(piece: Any) -> bool:
    return bool(piece.type == KIND.NORMAL)


def _special(piece: str) -> AddedToken:
    return AddedToken(piece, special=True, normalized=False)


def _shown(tokens: list[int], most: int = 8) -> str:
    more = f" and {len(tokens) - most} more" if len(tokens) > most else ""
    return f"{tokens[:most]}{more}"
