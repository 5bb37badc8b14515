"""Does the command do what its help says, and refuse what it can't do with a clear error?"""

from __future__ import annotations

import io
import itertools
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.cli import commands
from tramontane.cli import main as cli
from tramontane.export import build
from tramontane.graphs.quantization import recipe
from tramontane.graphs.writing import artifact as artifact_module
from tramontane.runtime.errors import ParityError
from tramontane.validate import run_gate


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in int8, exported by the command."""
    out = tmp_path_factory.mktemp("cli") / "artifact"
    model = Path(__file__).parents[2] / "models" / "stdlib-5m"
    assert cli.main(["export", str(model), "--quant", "int8", "--out", str(out)]) == 0
    return out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says when it exits with 2."""
    assert cli.main([str(argument) for argument in arguments]) == cli.EXIT_BAD_INPUT
    return capsys.readouterr().err


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
    assert stop.value.code == cli.EXIT_BAD_INPUT


def test_an_artifact_that_is_missing_is_told_before_standard_input_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert "no such folder" in refusal(capsys, "run", tmp_path / "missing")


def test_recipes_of_one_checkpoint_have_each_a_folder_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = [
        ["--quant", "int4"],
        ["--target", "portable"],
        ["--window", "32"],
        ["--window", "64"],
        ["--block", "32"],
        ["--block", "64"],
        ["--cache", "growing"],
        ["--kv", "int8"],
    ]
    names = []
    for words in itertools.chain([()], *(itertools.combinations(kinds, n) for n in (1, 2))):
        flags = [word for pair in words for word in pair]
        assert cli.main(["export", "a/model", *flags, "--print-out"]) == 0
        names.append(capsys.readouterr().out)
    assert names[0] == "artifacts/model-int8-ort\n"
    assert commands.DEFAULT_BLOCK == recipe.DEFAULT_BLOCK
    assert "artifacts/model-int8-ort-b32-kv-int8\n" in names
    # A window or a block that is given twice counts once.
    assert len(set(names)) == len(names) - 2
    assert cli.main(["export", "a/model", "--block", "128", "--print-out"]) == 0
    assert capsys.readouterr().out == names[0]
    assert cli.main(["export", "a/model", "--out", "b", "--print-out"]) == 0
    assert capsys.readouterr().out == "b\n"


def test_what_is_replaced_is_named_before_the_work_and_kept_until_the_new_one_is_whole(
    artifact: Path,
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    shutil.copytree(artifact, out)
    before = (out / "manifest.json").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise ParityError("far off")

    monkeypatch.setattr(run_gate, "prove", fail)
    assert cli.main(["export", str(stdlib_5m), "--out", str(out)]) == cli.EXIT_FAILED
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        f"{out}: the artifact there (stdlib-5m, int8 for ort) is replaced when the new one passes "
        "its parity check; --no-replace keeps it"
    )
    assert (out / "manifest.json").read_bytes() == before
    message = refusal(capsys, "export", stdlib_5m, "--out", out, "--no-replace")
    assert f"{out}: holds an artifact (stdlib-5m, int8 for ort), expected none" in message
    assert "tracing" not in message


def test_parity_that_failed_prints_the_commands_that_look_into_it(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ParityError("far off")

    monkeypatch.setattr(build, "export_checkpoint", lambda *_, gate, **__: gate(tmp_path, None))
    monkeypatch.setattr(run_gate, "prove", fail)
    words = ["--block", "32", "--kv", "int8", "--quant", "int4", "--out", str(tmp_path / "it's")]
    assert cli.main(["export", str(stdlib_5m), *words]) == cli.EXIT_FAILED
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    export, validate = (
        shlex.split(line)
        for line in lines
        if line.startswith(("/", ".venv", "tr")) and "stdlib" in line
    )
    start = export.index("export")
    again = cli.parser().parse_args(export[start:])
    assert (again.quant, again.block, again.kv, again.no_validate) == ("int4", 32, "int8", True)
    asked = cli.parser().parse_args(validate[validate.index("validate") :])
    assert asked.artifact == again.out == tmp_path / "it's-unproved"  # the old one stays
    assert (asked.reference, asked.explain) == (again.checkpoint, True)


def test_sampling_with_one_seed_gives_one_text(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for seed in (1, 1, 2):
        options = ["--temperature", "1.0", "--top-k", "50", "--top-p", "0.9", "--seed", str(seed)]
        assert cli.main(["run", str(artifact), "--prompt", "def f(", "--json", *options]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] != texts[2]


def test_two_exports_of_one_input_are_the_same_bytes(
    artifact: Path, stdlib_5m: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert cli.main(["export", str(stdlib_5m), "--quant", "int8", "--out", str(again)]) == 0
    names = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(artifact) for p in artifact.rglob("*") if p.is_file())
    for name in names:
        assert (again / name).read_bytes() == (artifact / name).read_bytes(), name


def test_inspect_tells_what_an_artifact_and_a_checkpoint_are(
    artifact: Path, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["window"] == 64
    assert cli.main(["inspect", str(stdlib_5m), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_key_value_heads"] == 2


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.model"])
def test_a_changed_byte_is_told_by_inspect_and_by_verify(
    artifact: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    for arguments in (["inspect", copy], ["run", copy, "--verify", "--prompt", "x"]):
        message = refusal(capsys, *arguments)
        assert f"{copy / name}: {len(content)} bytes with sha256" in message
        assert "the manifest promises" in message


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert f"{missing}: no such folder" in refusal(capsys, "export", missing)
    assert f"{missing}: no such folder" in refusal(capsys, "run", missing)
    assert f"{tmp_path}: not a checkpoint" in refusal(capsys, "export", tmp_path)


def test_an_unknown_recipe_is_refused_with_the_known_ones(
    stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(stdlib_5m), "--quant", "int3"])
    assert stop.value.code == cli.EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert "--quant" in message
    assert "int8" in message


def test_a_window_beyond_the_positions_is_refused(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    message = refusal(capsys, "export", stdlib_5m, "--window", 5000, "--out", out)
    assert "--window 5000: expected 1 to 4096" in message
    assert not out.exists()


def test_a_folder_that_is_no_artifact_is_not_replaced(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "is not an artifact" in refusal(capsys, "export", stdlib_5m, "--out", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_export_exits_with_130_and_says_where_it_is_kept(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact_module, "_write", interrupt)
    arguments = ["export", str(stdlib_5m), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == cli.EXIT_INTERRUPTED
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    assert capsys.readouterr().err.endswith(
        f"\n{tmp_path / '.out.partial'}: what was written is kept here; run the same command "
        "again to go on with it, with --no-resume to start anew\n\ntramontane: interrupted\n"
    )


def test_an_export_that_is_interrupted_before_it_writes_keeps_nothing_and_says_no_more(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "trace_apart", interrupt)
    arguments = ["export", str(stdlib_5m), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == cli.EXIT_INTERRUPTED
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "tracing (1)\n\ntramontane: interrupted\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tramontane.cli import main as cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'onnx', 'numpy', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--prompt" in done.stdout
    assert "example" in done.stdout


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
    assert process.returncode == cli.EXIT_NOT_READ
