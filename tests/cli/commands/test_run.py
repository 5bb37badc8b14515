"""Tests of ``tramontane run``."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import parser
from tramontane.cli import main as cli
from tramontane.cli.sampling_options import sampler_of
from tramontane.console import status
from tramontane.runtime import Sampler, Session
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.manifest import describe_file, read_manifest, write_manifest
from tramontane.runtime.sequences.guarded_sequence import GuardedSequence
from tramontane.runtime.speculation.speculation import Speculation

from ..calls import output, refusal

LOOP = """looping (int64[a,b] input_ids) => (int64[a,b] looped) {
bound = Constant<value = int64 {4611686018427387904}>() yes = Constant<value = bool {1}>()
looped = Loop(bound, yes, input_ids) <body = body (int64 i, bool c, int64[a,b] v)
=> (bool d, int64[a,b] w) { d = Identity(c) by = Constant<value = int64 {1}>() w = Add(v, by) }> }"""


def test_run_prints_the_prompt_and_what_follows(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(artifact), "--prompt", "import ", "--max-new-tokens", "8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("import ")
    assert len(out) > len("import \n")


def test_a_prompt_is_an_argument_an_option_or_standard_input(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompt(*words: str, typed: bytes = b"") -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="ascii"))
        options = ["--max-new-tokens", "1", "--json"]
        assert cli.main(["run", str(artifact), *words, *options]) == 0
        return str(json.loads(capsys.readouterr().out)["prompt"])

    assert prompt("def f(", typed=b"not this") == prompt("--prompt", "def f(") == "def f("
    for typed, expected in (
        (b"def f", "def f"),
        (b"def f\n", "def f"),
        (b"def f\r\n", "def f"),
        (b" def f\n\n", " def f\n"),
        (b"\xef\xbb\xbfdef f\n", "def f"),
        ("é→".encode(), "é→"),
    ):
        assert prompt(typed=typed) == expected
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", str(artifact), "a", "--prompt", "b"])
    assert stop.value.code == status.EXIT_BAD_INPUT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_at_a_terminal_a_prompt_is_typed_until_ctrl_d(artifact: Path) -> None:
    import pty

    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "tramontane", "run", str(artifact), "--max-new-tokens", "2"]
    with subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr
        assert process.stderr.readline() == b"type a prompt; Ctrl-D on a line of its own ends it\n"
        os.write(main, b"import os\nimport \n\x04")
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    assert out.startswith(b"import os\nimport ")
    os.close(main)
    os.close(terminal)


def test_an_artifact_that_is_missing_is_told_before_standard_input_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert "no such folder" in refusal(capsys, "run", tmp_path / "missing")


def test_standard_input_that_ends_inside_a_character_is_refused(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = io.TextIOWrapper(io.BytesIO("def 5 €".encode()[:-1]), encoding="ascii")
    monkeypatch.setattr("sys.stdin", typed)
    assert "byte 0xe2 at offset 6 is not UTF-8, expected text" in refusal(capsys, "run", artifact)


def test_sampling_with_one_seed_gives_one_text(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for seed in (1, 1, 2):
        options = ["--temperature", "1.0", "--top-k", "50", "--top-p", "0.9", "--seed", str(seed)]
        assert cli.main(["run", str(artifact), "--prompt", "def f(", "--json", *options]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] != texts[2]


def test_every_option_means_what_it_means_to_the_driver(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "temperature": 0.9,
        "top_k": 90,
        "top_p": 0.95,
        "min_p": 0.01,
        "typical_p": 0.97,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.1,
        "seed": 4,
    }
    words = [w for name, v in settings.items() for w in (f"--{name.replace('_', '-')}", str(v))]
    words += ["--logit-bias", "300=-inf", "--logit-bias", "301=1.5", "--stop", "\\n\\n"]
    asked = ["run", artifact, "def f(", "--max-new-tokens", "40", "--logprobs", "2", "--json"]
    found = json.loads(output(capsys, *asked, *words))
    sampler = Sampler(**settings, logit_bias={300: -math.inf, 301: 1.5})  # type: ignore[arg-type]
    expected = Session.load(artifact).generate(
        "def f(", max_new_tokens=40, sampler=sampler, stop="\n\n", logprobs=2
    )
    result = expected.finish()
    for name in ("text", "tokens", "finish_reason", "stop_string", "prompt_tokens"):
        assert found[name] == getattr(result, name)
    assert [one["token"] for one in found["logprobs"]] == result.tokens
    assert [len(one["top"]) for one in found["logprobs"]] == [2] * len(result.tokens)


def test_drafts_are_asked_for_and_change_no_token(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[GuardedSequence] = []
    begin = GuardedSequence.speculation

    def speculation(sequence: GuardedSequence) -> Speculation:
        begun.append(sequence)
        return begin(sequence)

    monkeypatch.setattr(GuardedSequence, "speculation", speculation)
    asked = ["run", artifact, "def f(", "--max-new-tokens", "9"]
    plain = output(capsys, *asked)
    assert not begun
    assert output(capsys, *asked, "--speculate") == plain
    assert len(begun) == 1


def test_the_options_have_the_samplers_settings_and_defaults() -> None:
    args = cli.parser().parse_args(["run", "x"])
    assert sampler_of(args) == Sampler()
    names = {field.name for field in dataclasses.fields(Sampler)}
    assert names - {"processors"} <= set(vars(args))


def test_samples_follow_each_other_by_seed(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["run", artifact, "def f(", "--max-new-tokens", "9", "--temperature", "1"]
    printed = output(capsys, *asked, "--samples", "2", "--seed", "6")
    alone = [output(capsys, *asked, "--seed", seed) for seed in (6, 7)]
    assert printed == f"--- seed 6\n{alone[0]}--- seed 7\n{alone[1]}"
    found = json.loads(output(capsys, *asked, "--samples", "2", "--seed", "6", "--json"))
    assert [f"def f({one['text']}\n" for one in found["samples"]] == alone


def test_stats_say_how_many_tokens_how_fast_and_why_it_ended(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(artifact), "def f(", "--max-new-tokens", "7", "--stats"]
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    assert "ended by" not in printed.out
    assert re.fullmatch(
        r"prompt: \d tokens in [\d.]+ s, [\d.]+ tokens/s; "
        r"answer: 7 tokens in [\d.]+ s, [\d.]+ tokens/s; ended by length; "
        r"attention by onnxruntime\n",
        printed.err,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--logit-bias", "x=1"], "--logit-bias x=1: expected TOKEN=BIAS"),
        (["--logit-bias", "3"], "--logit-bias 3: expected TOKEN=BIAS"),
        (["--samples", "0"], "--samples 0: expected 1 or more"),
        (["--stop", ""], "stop has ''; expected strings"),
        (["--min-p", "2"], "min_p is 2.0; expected 0 to 1"),
        (["--provider", "cuda"], "providers has 'cuda'; expected of .*CPUExecutionProvider"),
    ],
)
def test_what_an_option_cannot_be_is_refused(
    artifact: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(message, refusal(capsys, "run", artifact, "x", *words))


def test_the_driver_decodes_without_torch_or_onnx(artifact: Path) -> None:
    code = (
        "import sys; from tramontane.cli import main as cli\n"
        f"cli.main(['run', {str(artifact)!r}, '--prompt', 'import', '--max-new-tokens', '4'])\n"
        "assert not {'torch', 'onnx', 'onnx_ir', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_empty_prompt_is_fine_only_where_a_start_token_is_added(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for adds, out in ((True, tmp_path / "with"), (False, tmp_path / "without")):
        checkpoint = tiny_checkpoint()
        (checkpoint / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": adds}))
        arguments = ["export", str(checkpoint), "--quant", "fp32", "--out", str(out)]
        assert cli.main([*arguments, "--no-validate"]) == 0
    assert cli.main(["run", str(tmp_path / "with"), "", "--max-new-tokens", "2"]) == 0
    assert "nothing to decode from" in refusal(capsys, "run", tmp_path / "without", "")


def test_a_reader_who_has_read_enough_is_no_error(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    tramontane = [sys.executable, "-m", "tramontane.cli.main", "run", str(artifact)]
    with subprocess.Popen(
        [*tramontane, "--prompt", "def main("], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(4)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == status.EXIT_NOT_READ


def endless(artifact: Path, folder: Path) -> Path:
    """A copy of an artifact whose graph counts without an end before it reads its tokens."""
    shutil.copytree(artifact, folder)
    path = folder / MODEL_FILE
    model = onnx.load(path, load_external_data=False)
    loop = parser.parse_graph(LOOP)
    for node in model.graph.node:
        node.input[:] = ["looped" if name == "input_ids" else name for name in node.input]
    for node in reversed(loop.node):
        model.graph.node.insert(0, node)
    onnx.save(model, path)
    manifest = read_manifest(folder)
    files = {**manifest.files, MODEL_FILE: describe_file(path)}
    write_manifest(folder, dataclasses.replace(manifest, files=files))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--time-limit", "3000"], ["--json"]])
def test_ctrl_c_ends_a_run_of_a_graph_without_an_end(
    artifact: Path, tmp_path: Path, options: list[str]
) -> None:
    words = ["run", endless(artifact, tmp_path / "endless"), "x", *options]
    code = (
        "import os, signal, sys, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
        "from tramontane.cli.main import main\n"
        "from tramontane.runtime.ort import ort_session\n"
        "run = ort_session.run_bound\n"
        "from tramontane.runtime.sequences import sequence\n"
        "def begin(*args, **named):\n"
        "    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    run(*args, **named)\n"
        "sequence.run_bound = begin\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status.EXIT_INTERRUPTED
    assert done.stderr == "\ntramontane: interrupted\n"
