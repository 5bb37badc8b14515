"""The tokenizer of a checkpoint's folder, and the tokenizer files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.contract import (
    CHAT_TEMPLATE_FILE,
    TOKENIZER_FILE,
    TOKENIZER_JSON_FILE,
    TOKENIZER_SETTINGS_FILE,
)
from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.tokenizers.added_tokens import AddedTokens
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE, TOKENIZERS
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.files import is_name_inside
from ..files.held_files import HeldFile, HeldFiles
from ..files.metadata_fields import flag, read_json_object
from .byte_level import tekken
from .byte_level.tiktoken_ranks import is_tiktoken, refuse_alone
from .sentencepiece_model import with_leading_space
from .spelling import ENDS, text_of
from .tokenizer_json_file import JsonTokenizer, json_file, read_json

SETTINGS_FILE = TOKENIZER_SETTINGS_FILE
MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
DECODER = "added_tokens_decoder"  # key of the settings that lists added tokens by id
TEMPLATE_FILE = CHAT_TEMPLATE_FILE
_TEMPLATES = "additional_chat_templates/*.jinja"
_PARTS = ("vocab.json", "merges.txt")  # GPT-2's format, which tokenizer.json replaces
_LINE_BYTES = 1 << 12  # enough for the first line of a vocabulary
_BESIDE = (TOKENIZER_JSON_FILE, SETTINGS_FILE, MAP_FILE, ADDED_FILE, TEMPLATE_FILE)
# Files that decide which tokens a text has; a model may have another name (tokenizer.model.v3).
DECIDING = (
    TOKENIZER_FILE,
    TOKENIZER_JSON_FILE,
    tekken.FILE,
    SETTINGS_FILE,
    MAP_FILE,
    ADDED_FILE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTokenizer:
    """The tokenizer of a checkpoint, whatever its layout."""

    path: Path  # file that it was read from
    kind: str  # as in ``runtime.tokenizers.kinds``
    model: bytes  # content of the driver's file of this kind, with the settings that change it
    adds_bos: bool | None  # whether a prompt starts with the start token; None: nothing says so
    # Files that say the same to other programs, by their names.
    files_beside: dict[str, HeldFile] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # of tokenizer_config.json
    made_from: str | None = (
        None  # the file that a tokenizer.json was made from; None: as published
    )
    uncorrected: bytes | None = None  # the model as published, where its split regex is corrected
    # Of kind sentencepiece: what is added to the model. None: the files beside it say that.
    added_tokens: AddedTokens | None = None
    tokenizer_json: bytes | None = None  # with these tokens; None: none is added
    why_not_sentencepiece: str | None = None  # why the kind is tokenizers, where there is a model
    remedy: str = "download it again"  # what to do where the driver does not read it


def tokenizer_file(folder: Path) -> Path | None:
    """The file of a folder that the driver's tokenizer is made from; None where it has none.

    It is the SentencePiece model, else what ``json_file`` finds. Mistral names a model by the
    version of its control tokens, as in ``tokenizer.model.v3``; where ``tokenizer.model`` is there
    too, it is the same. Llama 3's ``tokenizer.model`` is tiktoken's, and comes last.

    Raises:
        CheckpointError: several versions, and none that is meant.
    """
    model = folder / TOKENIZER_FILE
    if model.is_file():
        return (json_file(folder) if _is_tiktoken(model) else None) or model
    found = sorted(folder.glob(f"{TOKENIZER_FILE}.v*"))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: holds {' and '.join(path.name for path in found)}, expected one "
            f"tokenizer; copy the one that is meant to {TOKENIZER_FILE}"
        )
    if found:
        return found[0]
    return json_file(folder)


def deciding_files(folder: Path) -> tuple[Path, ...]:
    """All files of a folder that decide which tokens a text has; none if it has no tokenizer.

    Raises:
        CheckpointError: as ``tokenizer_file``.
    """
    own = tokenizer_file(folder)
    if own is None:
        return ()
    beside = (path for name in DECIDING if (path := folder / name).is_file())
    return tuple(dict.fromkeys((own, *beside)))


def _is_tiktoken(path: Path) -> bool:
    with path.open("rb") as file:
        return is_tiktoken(file.read(_LINE_BYTES))


def read_tokenizer(folder: Path, held: HeldFiles) -> PublishedTokenizer:
    """Read a folder's tokenizer; its files are held from now on.

    Raises:
        CheckpointError: it has none, several, or settings that are no JSON object or hold values
            of another kind; or a template whose name no artifact can have.
    """
    path = tokenizer_file(folder)
    if path is None:
        raise CheckpointError(_missing(folder))
    files_beside = {
        name: file for name in _BESIDE if (file := held.find(folder / name)) is not None
    }
    for template in sorted(folder.glob(_TEMPLATES)):
        name = template.relative_to(folder).as_posix()
        if not is_name_inside(name):
            raise CheckpointError(
                f"{template}: is carried into the artifact, expected a name that every system "
                "has: printable, in UTF-8, without a backslash; rename it"
            )
        files_beside[name] = held.hold(template)
    try:
        settings = _settings(files_beside)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if path == json_file(folder):
        return _of_json(path, read_json(folder, held), files_beside, settings)
    content = held.hold(path).read_bytes()
    if is_tiktoken(content):
        refuse_alone(path)
    try:
        adds_bos = flag(settings, "add_bos_token") if "add_bos_token" in settings else None
        adds_space = _adds_space(held.find(folder / "config.json"), files_beside, settings)
    except ConfigError as error:
        raise CheckpointError(f"{folder / SETTINGS_FILE}: {error}") from error
    return PublishedTokenizer(
        path=path,
        kind=SENTENCEPIECE,
        model=with_leading_space(content, adds_space),
        adds_bos=adds_bos,
        files_beside=files_beside,
        settings=settings,
    )


def _of_json(
    path: Path, found: JsonTokenizer, files_beside: dict[str, HeldFile], settings: dict[str, Any]
) -> PublishedTokenizer:
    settings = {**found.settings, **settings}
    try:
        adds_bos = flag(settings, "add_bos_token") if "add_bos_token" in settings else None
    except ConfigError as error:
        raise CheckpointError(f"{path.with_name(SETTINGS_FILE)}: {error}") from error
    return PublishedTokenizer(
        path=path,
        kind=TOKENIZERS,
        model=found.content,
        adds_bos=adds_bos,
        files_beside=files_beside,
        settings=settings,
        made_from=found.made_from,
        uncorrected=found.uncorrected,
    )


def _missing(folder: Path) -> str:
    start = f"{folder}: holds no {TOKENIZER_JSON_FILE} and no {TOKENIZER_FILE}"
    if all((folder / name).is_file() for name in _PARTS):
        return (
            f"{start}, but {' and '.join(_PARTS)}; write {TOKENIZER_JSON_FILE} from them: python "
            f'-c "import sys, transformers; transformers.AutoTokenizer.from_pretrained('
            f"sys.argv[1]).save_pretrained(sys.argv[1])\" '{folder}'"
        )
    return (
        f"{start}, expected one of them; copy {TOKENIZER_JSON_FILE} (or {TOKENIZER_FILE}) and "
        f"{SETTINGS_FILE} from the model that this one was trained from into the folder"
    )


def _settings(files_beside: Mapping[str, HeldFile]) -> dict[str, Any]:
    """What ``tokenizer_config.json`` says; start and end tokens may be in the other file.

    Where both name one, ``special_tokens_map.json`` decides, unless ``tokenizer_config.json``
    lists added tokens by id.

    Source: transformers 5.23, ``PreTrainedTokenizerBase._from_pretrained``.
    """
    found, named = (
        read_json_object(files_beside[name]) if name in files_beside else {}
        for name in (SETTINGS_FILE, MAP_FILE)
    )
    for name in ENDS:
        for file, content in ((SETTINGS_FILE, found), (MAP_FILE, named)):
            if name in content and content[name] is not None and text_of(content[name]) is None:
                raise ConfigError(
                    f"{files_beside[file]}: {name} is {shown(content[name])}; expected a token's "
                    "text, an object with its content, or null"
                )
    ends = {name: named[name] for name in ENDS if name in named}
    return {**ends, **found} if DECODER in found else {**found, **ends}


def has_llama_class(settings: Mapping[str, Any]) -> bool:
    """Whether transformers lays out spaces by the settings, as its class for Llama does."""
    return str(settings.get("tokenizer_class")).removesuffix("Fast") == "LlamaTokenizer"


def _adds_space(
    config: HeldFile | None, files_beside: Mapping[str, HeldFile], settings: Mapping[str, Any]
) -> bool | None:
    """Whether a text gets a space in front; None: as the SentencePiece model has it.

    transformers reads ``add_prefix_space`` where it lays out spaces itself. Where it takes a
    published ``tokenizer.json`` as it is, the setting changes nothing.

    Source: transformers 5.23, ``LlamaTokenizer.__init__`` and ``AutoTokenizer.from_pretrained``.
    """
    if settings.get("add_prefix_space") is None:
        return None
    wanted = flag(settings, "add_prefix_space")
    if TOKENIZER_JSON_FILE not in files_beside:
        return wanted
    kind = None if config is None else read_json_object(config).get("model_type")
    return wanted if has_llama_class(settings) and kind != "mistral" else None
