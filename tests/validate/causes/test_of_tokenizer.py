"""Is a tokenizer.json of any content named as the cause, and never a traceback?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from tramontane.validate.causes import of_tokenizer as module

WANTED = {"added_tokens": [{"id": 1, "content": "<s>", "special": True}]}
NEVER: Any = None  # not looked at where the file is no JSON


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 5000, b"\xff", b'{"a": "\\ud800"}'])
def test_a_file_that_is_no_object_is_the_cause(content: bytes) -> None:
    found = module._part(content, b"{}", Path("none"), NEVER, NEVER)
    assert found == ("tokenizer.json is no JSON object", "the checkpoint's is")


@pytest.mark.parametrize("listed", [None, 5, "x", [1], [{}], [{"content": ["<s>"]}]])
def test_added_tokens_of_another_type_are_missing(listed: object) -> None:
    own = cast("dict[str, Any]", {"added_tokens": listed})
    assert next(module._other_tokens(own, WANTED)) == "added token '<s>' is missing"
