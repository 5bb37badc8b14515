"""Conversations of the command: piped lines, and a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.runtime import Model, Sampler

from .calls import refusal

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}# {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}# answer: {% endif %}"
)


@pytest.fixture(scope="module")
def chatting(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled demo model with a chat template, which it was not trained for."""
    folder = shutil.copytree(artifact, tmp_path_factory.mktemp("chat") / "artifact")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def chat(
    folder: Path,
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *options: str,
) -> list[dict[str, object]]:
    """The answers to lines of standard input, as JSON."""
    typed(monkeypatch, content)
    words = ["run", str(folder), "--chat", "--json", "--max-new-tokens", "12", *options]
    assert cli.main(words) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_line_is_a_message_and_the_conversation_is_the_prompt(
    chatting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = "def f(x):\r\n\nGrüße →\nagain\n/exit\nnever read\n".encode()
    answers = chat(chatting, content, monkeypatch, capsys, "--system", "Sing.", "--seed", "1")
    assert [answer["message"] for answer in answers] == ["def f(x):", "Grüße →", "again"]
    model = Model.load(chatting, threads=1)
    messages = [{"role": "system", "content": "Sing."}]
    for answer in answers:
        messages.append({"role": "user", "content": str(answer["message"])})
        expected = model.generate(
            model.chat_tokens(messages), max_new_tokens=12, sampler=Sampler(seed=1)
        ).finish()
        assert answer["text"] == expected.text
        messages.append({"role": "assistant", "content": expected.text})
    later = [int(str(answer["prompt_tokens"])) for answer in answers[1:]]
    assert max(later) < len(model.chat_tokens(messages[:4]))  # what was read is not read again


def test_reset_begins_anew_and_a_prompt_is_the_first_message(
    chatting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = chat(chatting, b"/reset\nimport ", monkeypatch, capsys, "--prompt", "import ")
    assert len(answers) == 2
    assert answers[0]["text"] == answers[1]["text"]


def test_text_is_printed_as_it_comes_a_line_for_each_answer(
    chatting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = chat(chatting, b"a\nb\n", monkeypatch, capsys, "--stop", "\\n")
    typed(monkeypatch, b"a\nb\n")
    words = ["run", str(chatting), "--chat", "--max-new-tokens", "12", "--stop", "\\n", "--stats"]
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    assert printed.out == "".join(f"{answer['text']}\n" for answer in answers)
    assert printed.err.count("ended by") == 2


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["--system", "x"], b"", "--system: is of a conversation; give --chat too"),
        (["--chat", "--samples", "2"], b"", "--chat: takes neither --samples nor --logprobs"),
        (["--chat"], b"a\n\xe2\x82\n", "byte 0xe2 of line 2, at offset 0, is not UTF-8"),
        (["--chat"], b"a\n\xe2\x82", "byte 0xe2 of line 2, at offset 0, is not UTF-8"),
        (["--chat"], b"a\n</s>\n", "spells a special token of the model"),
        (["--chat"], b"x " * 5000, "the artifact has 4096 positions; /reset begins a new one"),
    ],
)
def test_what_cannot_be_a_conversation_is_refused(
    chatting: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    content: bytes,
    message: str,
) -> None:
    typed(monkeypatch, content)
    assert message in refusal(capsys, "run", chatting, "--max-new-tokens", 2, *words)


def test_an_artifact_without_a_template_is_refused(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no chat template" in refusal(capsys, "run", artifact, "--chat")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_at_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(chatting: Path) -> None:
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "tramontane", "run", str(chatting), "--chat"]
    command += ["--max-new-tokens", "900", "--temperature", "1", "--logit-bias", "2=-inf"]
    with subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        os.write(main, b"def f(\n")
        assert process.stdout.read(8)  # the answer has begun
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        os.write(main, b"</s>\n")  # an error does not end it either
        os.write(main, b"/exit\n")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b"Ctrl-C stops an answer" in errors
        assert b"spells a special token" in errors
    os.close(main)
    os.close(terminal)
