"""Do other runtimes find in every artifact what they read?"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tramontane.export
import transformers
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.cache_choice import CacheChoice
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.export.sidecars.genai_config import GENAI_CONFIG_FILE, genai_config
from tramontane.export.sidecars.sidecars import write_sidecars
from tramontane.export.tokenizer.tokenizer import read_vocabulary
from tramontane.graphs.targets.all_targets import find_target
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

Write = Callable[..., Path]
SCHEMA = Path(str(tramontane.export.__file__)).with_name("sidecars") / "sidecars.schema.json"
FILES = tuple(json.loads(SCHEMA.read_bytes())["properties"])
LLAMA = {"architecture": "LlamaForCausalLM", "bos_token_id": 1, "eos_token_id": [2, 7]}
MISTRAL = {"bos_token_id": 1, "eos_token_id": 2}


def contents(artifact: Path) -> dict[str, Any]:
    """What each of the files holds; those that are not there are left out."""
    there = (artifact / name for name in FILES)
    return {path.name: json.loads(path.read_bytes()) for path in there if path.is_file()}


def validate(found: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(found)


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads((folder / name).read_bytes())
    change(content)
    (folder / name).write_text(json.dumps(content))
    return folder


Make = Callable[[pytest.FixtureRequest, Path], Path]


def embedded(recipe: str) -> Make:
    def make(request: pytest.FixtureRequest, _: Path) -> Path:
        artifact: Path = request.getfixturevalue("embedded_artifact")(recipe)
        return artifact

    return make


def tiny(layout: str | None = None, *, of: dict[str, Any], **options: Any) -> Make:
    def make(request: pytest.FixtureRequest, out: Path) -> Path:
        checkpoint = request.getfixturevalue("tiny_checkpoint")(**of)
        if layout is not None:
            checkpoint = request.getfixturevalue(layout)(checkpoint)
        recipe = {"quant": "int8", "target": "ort", **options}
        export_checkpoint(checkpoint, out / "artifact", ExportOptions(**recipe))
        return out / "artifact"

    return make


MATRIX: dict[str, Make] = {
    "embedded, int8 ort": embedded("int8-ort"),
    "embedded, fp32 portable": embedded("fp32-portable"),
    "embedded, int8 web": embedded("int8-web"),
    "Llama": tiny(of=LLAMA),
    "Llama with a window": tiny(of=LLAMA, window=16),
    "growing": tiny(of=MISTRAL, cache="growing"),
    "growing, portable": tiny(of=MISTRAL, cache="growing", quant="fp32", target="portable"),
    "Mistral's layout": tiny("as_mistral", of=MISTRAL),
    "GGUF": tiny("as_gguf", of=MISTRAL),
    "GGUF of a Llama": tiny("as_gguf", of={**LLAMA, "eos_token_id": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MATRIX)
def test_every_artifact_keeps_the_schema_and_says_one_thing_in_all_files(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    artifact = MATRIX[kind](request, tmp_path)
    found, manifest = contents(artifact), read_manifest(artifact)
    assert found.keys() == set(FILES)
    validate(found)
    geometry, vocabulary = manifest.geometry, manifest.vocabulary
    layout = geometry.shared_layout
    assert layout is not None
    config, genai = found["config.json"], found["genai_config.json"]
    decoder, search = genai["model"]["decoder"], genai["search"]
    assert config.get("sliding_window") == layout.window
    assert config["num_key_value_heads"] == decoder["num_key_value_heads"]
    assert decoder["num_key_value_heads"] == geometry.num_key_value_heads
    assert decoder["head_size"] == geometry.head_dim
    assert decoder["num_hidden_layers"] == geometry.num_layers
    assert genai["model"]["type"] == config["model_type"]
    assert genai["model"]["context_length"] == geometry.max_positions
    assert search["max_length"] == min(geometry.max_positions, 4096)
    ends = list(vocabulary.eos_token_ids)
    for described in (genai["model"], config, found["generation_config.json"]):
        assert described["bos_token_id"] == vocabulary.bos_token_id
        assert described["eos_token_id"] == (ends if len(ends) > 1 else ends[0])
    assert ("sliding_window" in decoder) == (layout.rows is not None)
    if layout.rows is not None:
        window = decoder["sliding_window"]
        assert window["window_size"] == layout.window
        assert window["window_size"] + window["cache_slack"] == layout.rows
        assert window["layers"] == list(range(geometry.num_layers))
    has_buffer = layout.rows is not None or manifest.target != "portable"
    assert search["past_present_share_buffer"] == has_buffer
    assert config["transformers.js_config"]["use_external_data_format"] == {"model.onnx": 1}
    theirs = transformers.AutoConfig.from_pretrained(artifact)
    assert theirs.architectures == config["architectures"]
    assert getattr(theirs, "sliding_window", None) == layout.window
    generation = transformers.GenerationConfig.from_pretrained(artifact)
    assert generation.eos_token_id == (ends if len(ends) > 1 else ends[0])


SPOILS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no config": lambda found: found.pop("config.json"),
    "another file": lambda found: found.update({"params.json": {}}),
    "no key/value heads": lambda found: found["config.json"].pop("num_key_value_heads"),
    "heads as text": lambda found: found["config.json"].update(num_attention_heads="8"),
    "window of none": lambda found: found["config.json"].update(sliding_window=0),
    "window of a Llama": lambda found: found["config.json"].update(
        model_type="llama", architectures=["LlamaForCausalLM"]
    ),
    "another architecture": lambda found: found["config.json"].update(architectures=["Gemma"]),
    "no part for transformers.js": lambda found: found["config.json"].pop(
        "transformers.js_config"
    ),
    "another dtype": lambda found: found["config.json"]["transformers.js_config"].update(
        dtype="q8"
    ),
    "data files by true": lambda found: found["config.json"]["transformers.js_config"].update(
        use_external_data_format=True
    ),
    "data files beyond those fetched": lambda found: found["config.json"][
        "transformers.js_config"
    ].update(use_external_data_format={"model.onnx": 101}),
    "end as text": lambda found: found["generation_config.json"].update(eos_token_id="</s>"),
    "no pad token": lambda found: found["genai_config.json"]["model"].pop("pad_token_id"),
    "unknown to genai": lambda found: found["genai_config.json"]["model"].update(window=64),
    "graph elsewhere": lambda found: found["genai_config.json"]["model"]["decoder"].update(
        filename="model.onnx"
    ),
    "input misnamed": lambda found: found["genai_config.json"]["model"]["decoder"][
        "inputs"
    ].update(past_key_names="past.%d.key"),
    "cache that slides": lambda found: found["genai_config.json"]["model"]["decoder"][
        "sliding_window"
    ].update(slide_key_value_cache=True),
    "no buffers": lambda found: found["genai_config.json"]["search"].pop(
        "past_present_share_buffer"
    ),
    "no class": lambda found: found["tokenizer_config.json"].pop("tokenizer_class"),
    "token by name": lambda found: found["tokenizer_config.json"]["added_tokens_decoder"].update(
        {"<s>": {"content": "<s>", "special": True}}
    ),
    "token without content": lambda found: found["tokenizer_config.json"][
        "added_tokens_decoder"
    ].update({"1": {"special": True}}),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_planted_missing_or_wrong_key_is_noticed(
    embedded_artifact: Callable[[str], Path], spoil: str
) -> None:
    found = contents(embedded_artifact("int8-ort"))
    validate(found)
    spoilt = copy.deepcopy(found)
    SPOILS[spoil](spoilt)
    assert spoilt != found
    with pytest.raises(jsonschema.ValidationError):
        validate(spoilt)


def test_data_files_are_counted_as_transformers_js_names_them(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    checkpoint, out = tiny_checkpoint(**MISTRAL), tmp_path / "artifact"
    options = ExportOptions(quant="fp32", target="ort", max_shard_bytes=600_000)
    export_checkpoint(checkpoint, out, options)
    found = contents(out)
    validate(found)
    (counted,) = found["config.json"]["transformers.js_config"][
        "use_external_data_format"
    ].values()
    names = [f"{DATA_FILE}_{number}" if number else DATA_FILE for number in range(counted)]
    assert counted > 1
    assert {path.relative_to(out).as_posix() for path in out.glob(f"{DATA_FILE}*")} == set(names)


def written(checkpoint: Path, out: Path) -> dict[str, Any]:
    """What is written for a checkpoint, without its graph."""
    weights = Checkpoint.open(checkpoint)
    out.mkdir()
    write_sidecars(
        weights, out, weights.config, read_vocabulary(weights), target=find_target("ort")
    )
    return contents(out)


def test_numbers_that_json_has_not_become_null(
    tiny_checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"of_mine": {"least": float("-inf"), "kept": 1.5}, "many": [float("nan"), 2.0]}
    folder = edited(tiny_checkpoint(**LLAMA), "config.json", lambda one: one.update(odd))
    found = written(folder, tmp_path / "out")["config.json"]
    assert found["of_mine"] == {"kept": 1.5, "least": None}
    assert found["many"] == [None, 2.0]
    said = capsys.readouterr().err
    assert f"{folder / 'config.json'}: 'of_mine': 'least': -inf is no number in JSON; the" in said
    json.loads((tmp_path / "out" / "config.json").read_bytes(), parse_constant=pytest.fail)


def test_config_that_leaves_out_what_runtimes_need_gets_it(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    left_out = ("num_key_value_heads", "model_type")
    folder = edited(
        tiny_checkpoint(**LLAMA, num_key_value_heads=4),
        "config.json",
        lambda config: [config.pop(name) for name in left_out],
    )
    found = written(folder, tmp_path / "out")
    validate(found)
    config = found["config.json"]
    assert (config["num_key_value_heads"], config["model_type"]) == (4, "llama")
    assert "sliding_window" not in config


def test_generation_config_is_carried_over_and_made_where_there_is_none(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    folder = edited(
        tiny_checkpoint(**MISTRAL),
        "generation_config.json",
        lambda config: config.update(temperature=0.7, eos_token_id=[2, 5]),
    )
    carried = written(folder, tmp_path / "carried")["generation_config.json"]
    assert carried == json.loads((folder / "generation_config.json").read_bytes())
    assert carried["temperature"] == 0.7
    (folder / "generation_config.json").unlink()
    made = written(folder, tmp_path / "made")["generation_config.json"]
    assert made == {"bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("window", "grows", "expected"),
    [(None, False, 4096), (64, True, 4096), (64, False, 128000)],
)
def test_genai_allocates_for_a_bounded_sequence_where_the_cache_grows(
    tiny_checkpoint: Write, window: int | None, grows: bool, expected: int
) -> None:
    config = dataclasses.replace(
        Checkpoint.open(tiny_checkpoint()).config,
        sliding_window=window,
        max_position_embeddings=128000,
    )
    vocabulary = Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True)
    cache = CacheChoice(grows=grows)
    found = genai_config(config, vocabulary, target=find_target("ort"), cache=cache)
    assert found["search"]["max_length"] == expected
    assert found["search"]["past_present_share_buffer"]
    assert found["model"]["context_length"] == 128000
    short = dataclasses.replace(config, max_position_embeddings=100)
    found = genai_config(short, vocabulary, target=find_target("ort"), cache=cache)
    assert found["search"]["max_length"] == 100


@pytest.mark.parametrize(("quant", "is_asked"), [("int8-dynamic", True), ("int8", False)])
def test_genai_asks_for_exact_products_of_int8(
    embedded_artifact: Callable[[str], Path], quant: str, is_asked: bool
) -> None:
    written = (embedded_artifact(f"{quant}-ort") / GENAI_CONFIG_FILE).read_text(encoding="utf-8")
    options = json.loads(written)["model"]["decoder"]["session_options"]
    assert (options.get("session.x64quantprecision") == "1") == is_asked


@pytest.mark.parametrize(
    ("published", "expected"),
    [({}, 2), ({"pad_token_id": 5}, 5), ({"pad_token_id": -1}, 2), ({"pad_token_id": 2048}, 2)],
)
def test_padding_token_is_the_published_one_where_the_model_scores_it(
    tiny_checkpoint: Write, tmp_path: Path, published: dict[str, Any], expected: int
) -> None:
    folder = edited(
        tiny_checkpoint(**MISTRAL), "generation_config.json", lambda found: found.update(published)
    )
    found = written(folder, tmp_path / "out")
    validate(found)
    assert found["genai_config.json"]["model"]["pad_token_id"] == expected


def test_licence_texts_are_carried_with_their_hashes(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    folder, out = tiny_checkpoint(**MISTRAL), tmp_path / "artifact"
    texts = {
        "LICENSE": "Apache \N{COPYRIGHT SIGN}\r\n".encode(),
        "NOTICE.md": b"# N",
        "Copying.LESSER": b"",
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    manifest = export_checkpoint(folder, out, ExportOptions(quant="fp32", target="ort"))
    for name, text in texts.items():
        assert (out / name).read_bytes() == text
        assert manifest.files[name]["sha256"] == hashlib.sha256(text).hexdigest()
        assert f"`{name}`" in (out / "README.md").read_text()
    assert read_manifest(out) == manifest


def test_git_keeps_large_files_apart_and_no_others(
    embedded_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    attributes = (embedded_artifact("int8-ort") / ".gitattributes").read_bytes()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitattributes").write_bytes(attributes)
    large = ["onnx/model.onnx", DATA_FILE, f"{DATA_FILE}_1", f"{DATA_FILE}_12", "tokenizer.model"]
    small = [*FILES, "tokenizer.json", "manifest.json", "README.md", "parity/report.html"]
    asked = ["git", "-C", tmp_path, "check-attr", "filter", "--", *large, *small]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    found = dict(line.split(": filter: ") for line in said.splitlines())
    assert found == dict.fromkeys(large, "lfs") | dict.fromkeys(small, "unspecified")
