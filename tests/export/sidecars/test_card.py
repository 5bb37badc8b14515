"""Does the model card say what the manifest knows, as hubs read it?"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub.repocard import metadata_load
from packaging.requirements import Requirement
from tramontane.cli.commands.export import add_export_options
from tramontane.export.formats.layouts import read_config
from tramontane.export.sidecars.card import render_card
from tramontane.runtime import Session, minimal_decode
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import Geometry
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import Manifest
from tramontane.runtime.memory import MemoryPlan
from tramontane.validate import verdict

from ...support.tiny_manifest import tiny_manifest

MOST_LINES = 36  # of the script with nothing but onnxruntime and numpy
NOT_MEASURED = "Not measured: this artifact was exported with `--no-validate`."
GEOMETRY = Geometry(
    num_key_value_heads=3,
    head_dim=16,
    vocab_size=640,
    layers=(CacheLayout(window=8, rows=24),) * 2,
    max_positions=512,
)
MEMORY = MemoryPlan(
    weights_bytes=9_000_000,
    resident_weights_bytes=10_000_000,
    activation_bytes=60,
    runtime_bytes=40,
    cache_bytes_per_token=1,
    cache_bytes_at_most=2_500_000,
    resident_bytes=12_500_100,
    other_quants={"fp32": 36_000_000},
)
ORIGIN = {"name": "Tiny", "license": "apache-2.0", "base_model": "org/Tiny", "language": ["en"]}
PARITY = {
    "distance": "close",
    "mean_kl": 2.4e-12,
    "mean_kl_on_random_tokens": 3e-12,
    "same_top": 1.0,
    "perplexity_ratio": 1.0,
    "max_logit_difference": 4.5e-05,
    "same_greedy_tokens": 256,
    "greedy_tokens": 256,
}


def changed_geometry(**changes: Any) -> Geometry:
    """``GEOMETRY`` with other sizes; ``window`` and ``rows`` are those of all layers."""
    sizes: dict[str, int | None] = {"window": 8, "rows": 24}
    sizes |= {name: changes.pop(name) for name in sizes if name in changes}
    return dataclasses.replace(GEOMETRY, **{"layers": (CacheLayout(**sizes),) * 2, **changes})


def manifest(*, geometry: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    known: dict[str, Any] = {
        "quant": "int8",
        "geometry": changed_geometry(**(geometry or {})),
        "memory": MEMORY,
        "tools": {"tramontane": "9.8.7"},
        "origin": ORIGIN,
        "parity": PARITY,
    }
    return tiny_manifest(**{**known, **changes})


def metadata(card: str) -> dict[str, Any]:
    """The block of YAML in front of a card."""
    found = re.match(r"\A---\n(.*?\n)---\n\n# ", card, flags=re.DOTALL)
    assert found is not None
    content: dict[str, Any] = yaml.safe_load(found[1])
    return content


def code_blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)


def test_metadata_are_what_hubs_read(tmp_path: Path) -> None:
    card = render_card(manifest())
    found = metadata(card)
    assert found == {
        "license": "apache-2.0",
        "base_model": "org/Tiny",
        "base_model_relation": "quantized",
        "language": ["en"],
        "library_name": "transformers.js",
        "pipeline_tag": "text-generation",
        "tags": [
            "tramontane",
            "onnx",
            "onnxruntime",
            "onnxruntime-genai",
            "transformers.js",
            "sliding-window",
            "int8",
        ],
        "tramontane": {
            "quantization": "int8",
            "target": "ort",
            "window": 8,
            "cache_rows": 24,
            "parity": PARITY,
        },
    }
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert metadata_load(tmp_path / "README.md") == found


def test_what_is_not_known_is_left_out_and_the_licence_is_said_to_be_missing() -> None:
    plain = manifest(origin={"name": "Tiny"}, parity=None, geometry={"window": None, "rows": None})
    card = render_card(plain)
    found = metadata(card)
    assert found.keys() == {"library_name", "pipeline_tag", "tags", "tramontane"}
    assert found["tramontane"] == {"quantization": "int8", "target": "ort"}
    assert "sliding-window" not in found["tags"]
    assert "| licence | not stated by the checkpoint |" in card
    assert "An ONNX artifact of Tiny, exported by tramontane 9.8.7." in card


@pytest.mark.parametrize("said", ["mrl: research", "- a", "'quoted' \"twice\"", "Größe #1", "no"])
def test_metadata_that_yaml_would_misread_are_kept_as_they_are(said: str) -> None:
    origin = {**ORIGIN, "license": "other", "license_name": said, "license_link": "LICENSE"}
    assert metadata(render_card(manifest(origin=origin)))["license_name"] == said


def test_figures_of_the_manifest_are_in_the_tables() -> None:
    card = render_card(manifest(tokenizer_json="left out: it changes characters"))
    for line in (
        "# Tiny, int8 for ort",
        "| weights | int8, 9.00 MB |",
        "| sliding window | 8 |",
        "| KV cache rows | 24 |",
        "| KV cache memory, at most | 2.50 MB |",
        "| estimated RAM to run, at most | 12.50 MB |",
        "| positions, at most | 512 |",
        "| start token | 1 |",
        "| end tokens | 2 |",
        "| layers, key/value heads, head size | 2, 3, 16 |",
        "| vocabulary | 640 |",
        "| tokenizer.json | left out: it changes characters |",
        "| licence | apache-2.0 |",
        "| distance from the float32 model | close |",
        "| mean KL on text, nats | 2.4e-12 |",
        "| top-1 agreement on text | 100.00% |",
        "| perplexity ratio on text | 1.0000 |",
        r"| max \|Δlogit\|, text and random tokens | 4.5e-05 |",
        "| greedy tokens that agree | 256 of 256 |",
    ):
        assert f"\n{line}\n" in card, line


def test_the_words_on_the_distance_have_the_bounds_of_the_parity_check() -> None:
    card = " ".join(render_card(manifest()).split())
    (close, kl, top), (usable, other_kl, other_top) = verdict._WORDS
    assert f"*{close.capitalize()}* means a mean KL of at most {kl} and an agreement of at" in card
    assert f"least {top:.0%}, *{usable}* {other_kl} and {other_top:.0%}, *{verdict.POOR}*" in card
    bounds = f"{close}: mean KL at most {kl} nats and top-1 agreement at least {top:.0%}; {usable}"
    assert f"{bounds}: at most {other_kl} nats and at least {other_top:.0%}" in verdict.WORDS
    assert "Mean KL" not in render_card(manifest(parity=None))


def test_parity_that_was_not_measured_is_said_not_to_be() -> None:
    measured, not_measured = render_card(manifest()), render_card(manifest(parity=None))
    assert NOT_MEASURED in not_measured
    assert "mean_kl" not in not_measured
    assert "parity" not in metadata(not_measured)["tramontane"]
    assert NOT_MEASURED not in measured
    assert "`parity/report.json`" in measured


def test_why_genai_cannot_run_a_cache_of_two_sizes_is_said() -> None:
    layers = CacheLayout(window=8, rows=24), CacheLayout(window=16, rows=32)
    card = render_card(manifest(geometry={"layers": layers}))
    assert "onnxruntime-genai cannot run this folder: layers have fixed-size KV caches of" in card
    assert "import onnxruntime_genai" not in card
    assert code_blocks(card, "js")
    assert "onnxruntime-genai" not in metadata(card)["tags"]
    mixed = CacheLayout(window=8, rows=24), CacheLayout(window=None, rows=None)
    card = render_card(manifest(geometry={"layers": mixed}, target="portable"))
    assert "onnxruntime-genai cannot run this folder: some layers' KV caches grow" in card


def test_genai_gets_no_fewer_tokens_than_the_cache_has_rows() -> None:
    mixed = CacheLayout(window=8192, rows=9216), CacheLayout(window=None, rows=None)
    memory = dataclasses.replace(MEMORY, cache_bytes_per_token=3072)
    sizes = {"layers": mixed, "max_positions": 32768}
    card = render_card(manifest(geometry=sizes, memory=memory))
    assert "max_length=9216" in card
    assert "it is the 9216 of `genai_config.json`; the model takes up to 32768." in card
    assert "Set none below 9216" in card
    few = render_card(manifest(geometry={"rows": 72, "window": 64, "max_positions": 64}))
    assert (
        "onnxruntime-genai cannot run this folder: the KV cache has 72 rows, expected at most "
        "the model's 64 positions" in few
    )


def test_optimum_is_shown_for_a_cache_that_grows_and_for_no_other() -> None:
    windowed = render_card(manifest())
    assert "optimum's `ORTModelForCausalLM` needs a KV cache that grows from length 0" in windowed
    assert "export with `--cache growing` for it" in windowed
    assert "zeros, shape\n(1, 3, 24, 16), float32." in windowed
    assert "from optimum" not in windowed
    for geometry in ({"rows": None}, {"rows": None, "window": None}):
        growing = render_card(manifest(geometry=geometry))
        assert "from optimum.onnxruntime import ORTModelForCausalLM" in growing
        assert "| KV cache rows | one for each token |" in growing
        assert "zeros, shape" not in growing


def test_why_optimum_cannot_run_a_model_is_said_with_any_cache(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    scaled = read_config(tiny_checkpoint("Ministral3ForCausalLM"))
    wide = read_config(tiny_checkpoint("LlamaForCausalLM", head_dim=32))
    for rows in (None, 24):
        for config, why in (
            (scaled, "it does not support model type 'ministral3', expected llama or "),
            (wide, "it takes hidden_size / num_attention_heads (16) for the numbers of a head"),
        ):
            card = render_card(manifest(geometry={"rows": rows}), config)
            assert f"`ORTModelForCausalLM` cannot run this folder: {why}" in card
            assert "from optimum" not in card
            assert "for it." not in card
    plain = read_config(tiny_checkpoint("LlamaForCausalLM"))
    growing = manifest(geometry={"rows": None})
    assert render_card(growing, plain) == render_card(growing)


def test_scaled_rope_and_queries_are_named_as_what_the_graph_computes(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    ministral3 = read_config(tiny_checkpoint("Ministral3ForCausalLM"))
    card = render_card(manifest(), ministral3)
    assert "| rope, computed in the graph | yarn, factor 16, original length 16384 |" in card
    growth = "times 1 + 0.1 ln(1 + floor(position / 16384))"
    assert f"| queries, scaled in the graph | {growth} |" in card
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    card = render_card(
        manifest(), read_config(tiny_checkpoint("LlamaForCausalLM", rope_parameters=linear))
    )
    assert "| rope, computed in the graph | linear, factor 4 |" in card
    assert "in the graph" not in card.replace("rope, computed in the graph", "")


def test_layers_that_differ_are_listed() -> None:
    layers = CacheLayout(window=8, rows=24), CacheLayout(window=None, rows=None)
    memory = dataclasses.replace(MEMORY, cache_bytes_per_token=3072)
    card = render_card(manifest(geometry={"layers": layers}, memory=memory))
    assert "| sliding window | 8, none (layer by layer) |" in card
    assert "| KV cache rows | 24, one for each token (layer by layer) |" in card
    assert "(1, 3, 24, 0 (layer by layer), 16), float32." in card
    assert "at once: 1536 bytes a token," in card  # one layer of two grows
    assert "optimum's `ORTModelForCausalLM` needs a KV cache that grows" in card
    found = metadata(card)
    assert {"onnxruntime-genai", "transformers.js"} <= set(found["tags"])
    assert "sliding-window" in found["tags"]
    assert found["tramontane"]["window"] == [8, None]
    assert found["tramontane"]["cache_rows"] == [24, None]
    assert "cache_dtype" not in found["tramontane"]


@pytest.mark.parametrize(
    ("widget", "prompt"),
    [
        ([{"text": 'say "x"'}], r'"say \"x\""'),
        ([{"text": "```"}], '"Once upon a time"'),
        ([{"text": "a\nb"}], '"Once upon a time"'),
        ([{"text": "a" * 201}], '"Once upon a time"'),
        ([{"text": ""}], '"Once upon a time"'),
        ([{"example_title": "x"}], '"Once upon a time"'),
        ("def", '"Once upon a time"'),
    ],
)
def test_the_prompt_is_the_checkpoints_example_or_a_neutral_one(widget: Any, prompt: str) -> None:
    card = render_card(manifest(origin={**ORIGIN, "widget": widget}, geometry={"rows": None}))
    assert card.count(f"({prompt},") == 3
    assert f"encode({prompt})" in card
    assert metadata(card)["widget"] == widget


@pytest.mark.parametrize("rows", [24, None])
def test_python_in_the_card_is_python(rows: int | None) -> None:
    blocks = code_blocks(render_card(manifest(geometry={"rows": rows})), "python")
    assert len(blocks) == (3 if rows else 4)
    for block in blocks:
        compile(block, "card", "exec")


def test_artifact_without_tokenizer_json_shows_nothing_that_reads_it() -> None:
    for rows in (24, None):
        why = "left out: it changes characters"
        card = render_card(manifest(tokenizer_json=why, geometry={"rows": rows}))
        assert f"`tokenizer.json`, which was {why}." in card
        assert len(code_blocks(card, "python")) == 2
        assert not code_blocks(card, "js")
        for program in ("import onnxruntime_genai", "from optimum", "huggingface/transformers"):
            assert program not in card


def test_longest_sequence_of_genai_is_said_with_its_memory_where_the_cache_grows() -> None:
    memory = dataclasses.replace(MEMORY, cache_bytes_per_token=3072)
    growing = {"rows": None, "window": None, "max_positions": 128000}
    card = render_card(manifest(geometry=growing, memory=memory))
    assert "it is the 4096 of `genai_config.json`; the model takes up to 128000." in card
    assert "at once: 3072 bytes a token,\n12.58 MB for 4096 tokens." in card
    portable = render_card(manifest(geometry=growing, memory=memory, target="portable"))
    assert "The KV cache grows by 3072 bytes a token." in portable
    windowed = render_card(manifest(memory=memory))
    assert "The KV cache takes the same memory for any length." in windowed
    assert "max_length=" not in windowed
    assert "Set none below 24, the rows of the KV cache" in windowed
    assert "Set none below" not in card
    assert "max_length=256" in card
    short = render_card(manifest(geometry={**growing, "max_positions": 100}, memory=memory))
    assert "max_length=100" in short


def test_licence_texts_are_named_and_are_no_metadata() -> None:
    card = render_card(manifest(origin={**ORIGIN, "license_files": ["LICENSE", "NOTICE.txt"]}))
    assert "| licence texts | `LICENSE`, `NOTICE.txt` |" in card
    assert "license_files" not in metadata(card)
    assert "licence texts" not in render_card(manifest())


def test_revision_and_calibration_text_are_no_metadata_and_the_revision_is_named() -> None:
    known = {"revision": "0" * 40, "calibration_text": {"sha256": "1" * 64, "tokens": 7}}
    card = render_card(manifest(origin={**ORIGIN, **known}))
    assert f"An ONNX artifact of org/Tiny at revision {'0' * 40}, exported by" in card
    assert not known.keys() & metadata(card).keys()


@pytest.mark.parametrize(
    "foreign", ["tags", "library_name", "eval_results", "model-index", "self", "tramontane"]
)
def test_keys_that_no_export_writes_are_no_metadata(foreign: str) -> None:
    card = render_card(manifest(origin={**ORIGIN, foreign: [1]}))
    assert card == render_card(manifest())


@pytest.mark.parametrize("name", ["license", "license_name", "license_link", "base_model"])
def test_a_licence_or_a_model_that_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(ContractError, match=rf"^origin\.{name} is \[1\], expected a text$"):
        render_card(manifest(origin={**ORIGIN, name: [1]}))


def test_a_licence_stays_in_its_cell() -> None:
    card = render_card(manifest(origin={**ORIGIN, "license": "a | b"}))
    assert "| licence | a \\| b |\n" in card
    assert metadata(card)["license"] == "a | b"


def test_options_that_the_card_names_are_those_of_export() -> None:
    cards = [
        render_card(manifest(geometry=geometry, parity=None))
        for geometry in ({}, {"rows": None}, {"cache_dtype": "int8"})
    ]
    named = {found for card in cards for found in re.findall(r"`(--[^`]+)`", card)}
    assert named == {"--no-validate", "--cache growing", "--kv float32"}
    parser = argparse.ArgumentParser()
    add_export_options(parser)
    for option in named:
        parser.parse_args(option.split())


def test_packages_that_the_card_installs_are_named_as_pip_reads_them() -> None:
    card = render_card(manifest(geometry={"rows": None}))
    lines = re.findall(r"pip install ([^`\n]+)", card)
    assert lines.pop(0) == '"path/to/tramontane"'
    assert len(lines) == 3
    names = {Requirement(each).name for line in lines for each in shlex.split(line)}
    assert names == {"numpy", "onnxruntime", "onnxruntime-genai", "optimum-onnx"}


@pytest.mark.slow
def test_commands_and_files_of_the_card_are_there(
    embedded_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "with a space"
    folder.symlink_to(embedded_artifact("fp32-portable"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`([\w./-]+\.(?:json|model))`", card)):
        assert (folder / name).is_file(), name
    (tmp_path / "minimal_decode.py").write_text(code_blocks(card, "python")[1], encoding="utf-8")
    (block,) = code_blocks(card, "sh")
    command = block.splitlines()[-1].replace("ARTIFACT", shlex.quote(str(folder)))
    where = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = subprocess.run(
        command,
        shell=True,
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": where},
    ).stdout
    assert len(said.split()) == 64


def test_script_of_the_card_is_the_files_and_short() -> None:
    text = Path(minimal_decode.__file__).read_text(encoding="utf-8")
    assert text in code_blocks(render_card(manifest()), "python")
    assert len(text.splitlines()) <= MOST_LINES
    assert "tramontane" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp32-portable", "int8-dynamic-ort"])
def test_script_of_the_card_decodes_as_the_driver_does(
    embedded_artifact: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    artifact = embedded_artifact(name)
    card = (artifact / "README.md").read_text(encoding="utf-8")
    script = tmp_path / "minimal_decode.py"
    script.write_text(code_blocks(card, "python")[1], encoding="utf-8")
    session = Session.load(artifact)
    prompt = session.tokenizer.encode("def f(x):")
    asked = [sys.executable, script, artifact, "80", *map(str, prompt)]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    logits, expected = session.prefill(prompt), []
    for _ in range(80):  # beyond the window
        expected.append(int(logits.argmax()))
        logits = session.step(expected[-1])
    assert [int(token) for token in said.split()] == expected


def test_card_is_rendered_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a card needs no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert render_card(manifest()) == render_card(manifest())


def test_card_says_on_which_processors_bytes_are_multiplied_exactly() -> None:
    for told in ("x86 processors with VNNI do exactly", 'x64quantprecision: "1"'):
        assert told in render_card(manifest(quant="int8-dynamic"))
        assert told not in render_card(manifest(quant="int8"))


def test_bits_per_weight_stand_beside_the_size_where_the_manifest_has_them() -> None:
    card = render_card(manifest(bits_per_weight=8.582))
    assert "| weights | int8, 9.00 MB, 8.58 bits per weight |" in card
