"""Chat templates give the text that transformers gives, and refuse what it would misread."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tramontane.interop.tokenized import CHAT, MAKERS, TEMPLATE, make_checkpoint
from tramontane.runtime import Model
from tramontane.runtime.chat.chat_template import ChatTemplate, open_chat_template
from tramontane.runtime.errors import ContractError
from transformers.utils.chat_template_utils import render_jinja_template

MESSAGES = [
    {"role": "system", "content": "Be brief. <b>&amp;"},
    {"role": "user", "content": "  Grüße\n"},
    {
        "role": "assistant",
        "content": "ja",
        "calls": [{"name": "f", "arguments": {"ü": [1, None]}}],
    },
    {"role": "user", "content": "5 €"},
]
# What published templates use beside plain loops.
TEMPLATES = [
    TEMPLATE,
    "{%- for m in messages %}\n    {%- if loop.index0 == 0 %}\n{{ m['content'] | trim }}\n    {%- endif %}"
    "\n{%- endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.calls %}"
    "{{ m.calls | tojson }} {{ m.calls | tojson(indent=2) }}{% set ns.found = true %}{% endif %}"
    "{% endfor %}{{ ns.found }}{{ messages[::-1][0].content.split(' ') }}",
    "{% macro show(x) %}[{{ x }}]{% endmacro %}{{ show(messages[1:] | length) }}{{ eos_token }}",
    "{{ undefined_name }}{% if tools is defined %}{{ tools }}{% else %}none{% endif %}",
]


@pytest.mark.parametrize("source", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_the_text_is_that_of_transformers(source: str, add_generation_prompt: bool) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        [MESSAGES], chat_template=source, add_generation_prompt=add_generation_prompt, **names
    )
    template = ChatTemplate(source, names=names)
    found = template.render(MESSAGES, add_generation_prompt=add_generation_prompt)
    assert found == expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_tokens_of_a_conversation_are_those_of_transformers(
    name: str, artifact_of: Callable[[Path, str], Path], stdlib_5m: Path, tmp_path: Path
) -> None:
    import transformers

    checkpoint = make_checkpoint(name, stdlib_5m, tmp_path / f"chat-{name.replace(' ', '-')}")
    theirs = transformers.AutoTokenizer.from_pretrained(checkpoint)
    wanted = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    model = Model.load(artifact_of(checkpoint, "int8-ort"), threads=1)
    assert model.chat_tokens(CHAT, allow_special=True) == wanted
    with pytest.raises(ContractError, match=r"message 1: .* spells a special token of the model"):
        model.chat_tokens(CHAT)
    plain = [{**CHAT[1], "content": "Sum two numbers, 5 €"}]
    wanted = theirs.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert model.chat_tokens(plain) == wanted


@pytest.mark.parametrize(
    ("source", "messages", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", MESSAGES, "roles must alternate"),
        ("{% for m in messages %}", MESSAGES, "cannot be read .*TemplateSyntaxError"),
        ("{{ messages[0].content + 1 }}", MESSAGES, "refuses the messages .*TypeError"),
        ("{{ messages.__class__.__mro__ }}", MESSAGES, "SecurityError"),
        ("{{ messages.append(1) }}", MESSAGES, "SecurityError"),
        ("{{ 1 }}", ["Hello"], "message 0: .* expected a dictionary with role"),
    ],
)
def test_what_a_template_refuses_is_one_line(source: str, messages: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words) as refused:
        ChatTemplate(source).render(messages)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(9) %}{% endfor %}{% endfor %}",
            "takes more than 500 steps",
        ),
        ("{% for i in messages[0].content * 600 %}{% endfor %}", "takes more than 500 steps"),
        (
            "{% for i in messages[0].content * 600 if false %}{% endfor %}",
            "takes more than 500 steps",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "takes more than 500 steps",
        ),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}"
            "{% endfor %}",
            "writes more than 67108864 characters",
        ),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
            "{% endfor %}",
            "writes more than 67108864 characters",
        ),
        ("{{ 'a' * 10 ** 9 }}", "writes more than 67108864 characters"),
        ("{% set s = 'a' * 10000 %}{{ s.replace('a', s) }}", "writes more than 67108864"),
        ("{% set s = 'a' * 10000 %}{{ s | list | join(s) }}", "writes more than 67108864"),
        ("{{ 2 ** (10 ** 9) }}", "computes a number of more than 10000 bits"),
        ("{{ 'a' | center(10 ** 9) }}", "calls center with a number above 10000"),
        ("{{ 'a' | slice(10 ** 9) | list }}", "calls slice with a number above 10000"),
        ("{{ {'a': 1} | tojson(indent=10 ** 9) }}", "calls tojson with a number above 10000"),
        ("{{ 'a'.ljust(10 ** 9) }}", "calls ljust with a number above 10000"),
        ("{{ '%1000000000d' % 1 }}", "writes in a format with the width"),
        ("{{ '{:1000000000}'.format(1) }}", "writes in a format with the width"),
    ],
)
def test_a_template_that_would_run_for_long_is_stopped_and_its_file_named(
    source: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tramontane.runtime.chat.chat_limits.MOST_STEPS", 500)
    template = ChatTemplate(source, where="folder/chat_template.jinja")
    with pytest.raises(ContractError, match=rf"folder/chat_template\.jinja: the template {words}"):
        template.render([{"role": "user", "content": "x"}])


def test_a_template_whose_steps_are_slow_is_stopped_by_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tramontane.runtime.chat.chat_limits.MOST_SECONDS", 0.0)
    with pytest.raises(ContractError, match="takes more than 0 s"):
        ChatTemplate(TEMPLATE).render(MESSAGES)


def test_a_conversation_of_a_thousand_messages_is_within_the_limits() -> None:
    messages = [{"role": "user", "content": "**bold** 100% {x: 12345} " * 99}] * 1000
    text = ChatTemplate(TEMPLATES[1]).render(messages)
    assert len(text) > 1000
    for source in (
        TEMPLATE,
        "{% for m in messages %}{{ m.content | trim ~ '%s' % m.role }}{% endfor %}",
    ):
        assert ChatTemplate(source).render(messages).count("**bold**") == 99_000


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        ContractError, match=r"jinja2, which is not installed, .*; pip install 'jinja2>=3\.1\.6'"
    ):
        ChatTemplate("")
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.1.5")
    with pytest.raises(ContractError, match=r"is 3\.1\.5, expected 3\.1\.6 or newer"):
        ChatTemplate("")


def test_the_file_is_taken_before_the_settings_and_the_default_of_several(tmp_path: Path) -> None:
    def rendered() -> str:
        return open_chat_template(tmp_path).render([{"role": "user", "content": "x"}])

    with pytest.raises(ContractError, match=r"has no chat template, neither chat_template\.jinja"):
        rendered()
    settings = tmp_path / "tokenizer_config.json"
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    settings.write_text(json.dumps({"chat_template": several}))
    assert rendered() == "d"
    token = {"content": "<e>", "special": True}
    settings.write_text(
        json.dumps({"chat_template": "s{{ eos_token }}{{ bos_token }}", "eos_token": token})
    )
    assert rendered() == "s<e>"
    (tmp_path / "chat_template.jinja").write_text("f{{ eos_token }}")
    assert rendered() == "f<e>"
    (tmp_path / "chat_template.jinja").write_bytes(b"a\xff")
    with pytest.raises(ContractError, match="byte 1 is not UTF-8"):
        rendered()
    shutil.rmtree(tmp_path)
