"""Sessions that are saved: continued bit for bit by another process, or refused by what is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.runtime import Model, Session
from tramontane.runtime.errors import ContractError

from ..conftest import ROWS, WINDOW
from .guarded_sessions import SEQUENCE, Patched, close

LENGTHS = [0, 1, WINDOW, ROWS, ROWS + 1, 100, 200]
CONTINUE = """
import sys
from pathlib import Path
import numpy as np
from tramontane.runtime import Model, Session
model = Model.load(sys.argv[1], threads=1)
session = Session.load_state(sys.argv[2], model)
tokens = [int(token) for token in sys.argv[4:]]
logits = [session.step(token).copy() for token in tokens[:30]]
logits += list(session.prefill(tokens[30:], all_logits=True))
np.save(sys.argv[3], np.stack(logits))
"""


@pytest.fixture
def model(folder: Path) -> Model:
    return Model.load(folder, threads=1)


def test_another_process_continues_bit_for_bit_past_the_window(
    model: Model, tmp_path: Path
) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:100], chunk=30)
    session.save(tmp_path / "state")
    after = SEQUENCE[100:180]
    command = [sys.executable, "-c", CONTINUE, model.folder, tmp_path / "state"]
    subprocess.run([*command, tmp_path / "logits.npy", *map(str, after)], check=True)
    expected = [session.step(token).copy() for token in after[:30]]
    expected += list(session.prefill(after[30:], all_logits=True))
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), np.stack(expected))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("keep", [0, 5])
def test_a_loaded_session_continues_bit_for_bit_and_rewinds_as_far(
    model: Model, expected: np.ndarray, tmp_path: Path, length: int, keep: int
) -> None:
    session = model.session(keep=keep)
    if length:
        session.prefill(SEQUENCE[:length])
    session.save(str(tmp_path / "state"))
    loaded = Session.load_state(str(tmp_path / "state"), model, keep=keep)
    assert (loaded.tokens, loaded.rewindable) == (length, session.rewindable)
    after = SEQUENCE[length : length + 40]
    np.testing.assert_array_equal(
        loaded.prefill(after, all_logits=True), session.prefill(after, all_logits=True)
    )
    again = Session.load_state(tmp_path / "state", model)
    again.rewind(min(1, again.rewindable))
    close(again.step(SEQUENCE[again.tokens]), expected[again.tokens - 1])
    if length:
        found = again.prefill([*SEQUENCE[:length], 5], reuse=True, all_logits=True)
        assert len(found) <= 2  # the tokens are saved too


def test_the_same_session_gives_the_same_bytes(model: Model, tmp_path: Path) -> None:
    session = model.session()
    session.prefill(SEQUENCE[:50])
    for name in ("one", "two"):
        session.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["one", "two"]


def saved(model: Model, path: Path) -> bytes:
    session = model.session()
    session.prefill(SEQUENCE[:60])
    session.save(path)
    return path.read_bytes()


def with_header(content: bytes, **changes: object) -> bytes:
    """The file with another header whose own hash is right."""
    first, second, _, payload = content.split(b"\n", 3)
    lines = first + b"\n" + json.dumps({**json.loads(second), **changes}).encode() + b"\n"
    return lines + hashlib.sha256(lines).hexdigest().encode() + b"\n" + payload


def with_tokens(content: bytes, token: int) -> bytes:
    """The file with a token in place of the first, and hashes that are right."""
    payload = content.split(b"\n", 3)[3]
    payload = np.array(token, "<i8").tobytes() + payload[8:]
    changed = with_header(content, payload=hashlib.sha256(payload).hexdigest())
    return b"\n".join([*changed.split(b"\n", 3)[:3], payload])


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "begins with b''.*expected 'tramontane session'"),
    "text": (lambda _: b"once upon a time", "begins with b'once upon.*that session.save wrote"),
    "version": (
        lambda c: c.replace(b"session 1", b"session 2", 1),
        "version '2' of the format, expected 1; load it with the tramontane that wrote it",
    ),
    "header": (lambda c: c.replace(b'"tokens"', b'"tokenz"', 1), "its header is damaged"),
    "cut in the header": (lambda c: c[:60], "its header is damaged"),
    "cut": (lambda c: c[:-1], r"\d+ bytes follow its header, expected \d+; it was cut or some"),
    "longer": (
        lambda c: c + b"x",
        r"\d+ bytes follow its header, expected \d+; it was cut or som",
    ),
    "one bit": (
        lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:],
        "its tokens and rows are damaged .sha256 .*save the session again",
    ),
    "field": (lambda c: with_header(c, more=1), "header.more is unknown, expected artifact"),
    "type": (lambda c: with_header(c, tokens="60"), "header.tokens is '60', expected a whole"),
    "tokens": (lambda c: with_header(c, tokens=601), "601 tokens, expected 0 to 600"),
    "negative": (lambda c: with_header(c, tokens=-1), "-1 tokens, expected 0 to 600"),
    "layers": (lambda c: with_header(c, starts=[]), "rows of 0 layers, expected 1"),
    "start": (lambda c: with_header(c, starts=[61]), "rows of layer 0 start at position 61"),
    "before": (lambda c: with_header(c, starts=[-1]), "rows of layer 0 start at position -1"),
    "artifact": (
        lambda c: with_header(c, artifact="0" * 64),
        "is a session of the artifact whose manifest has sha256 '000.*expected [0-9a-f]{64}; load",
    ),
    "vocabulary": (lambda c: with_tokens(c, 2048), "tokens from .* to 2048, expected the vocabul"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_damage_is_named_and_leaves_no_session(
    model: Model, tmp_path: Path, damage: str
) -> None:
    change, said = DAMAGES[damage]
    path = tmp_path / "state"
    path.write_bytes(change(saved(model, path)))
    with pytest.raises(ContractError, match=said) as error:
        Session.load_state(path, model)
    assert str(path) in str(error.value)
    model.close()  # no session is left that a thread could use


def test_no_changed_byte_goes_unnoticed(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "state"
    content = saved(model, path)
    for place in [*range(300), *range(300, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
        with pytest.raises(ContractError):
            Session.load_state(path, model)


def test_a_session_of_another_artifact_is_refused(
    model: Model, make: Callable[..., Path], tmp_path: Path
) -> None:
    saved(model, tmp_path / "state")
    other = Model.load(make(tmp_path / "other", max_positions=300), threads=1)
    with pytest.raises(ContractError, match="load it with the artifact that it was saved with"):
        Session.load_state(tmp_path / "state", other)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "absent",
            "cannot be read .No such file or directory., expected a file that session.save",
        ),
        (".", "cannot be read .*, expected a file that session.save wrote"),
    ],
)
def test_a_file_that_is_not_there_is_named(
    model: Model, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        Session.load_state(tmp_path / name, model)


def test_a_file_that_cannot_be_written_is_named_and_the_session_goes_on(
    model: Model, tmp_path: Path
) -> None:
    session = model.session()
    session.prefill([5])
    with pytest.raises(ContractError, match="cannot be written .No such file.*another name"):
        session.save(tmp_path / "no" / "state")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ContractError, match="cannot be written"):
        session.save(tmp_path / "folder")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    assert session.step(6).shape == (2048,)


def test_a_save_that_fails_leaves_the_file_of_before(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved(model, tmp_path / "state")
    session = model.session()
    session.prefill([5])
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(ContractError, match="cannot be written .no space left"):
        session.save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_session_in_an_unknown_state_is_not_saved(model: Model, tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    session = model.session()
    with pytest.raises(KeyboardInterrupt), Patched(session, fail):
        session.prefill([5])
    with pytest.raises(ContractError, match=r"call reset\(\)"):
        session.save(tmp_path / "state")


@pytest.mark.parametrize("recipe", ["int8-ort-int8", "fp32-portable"])
def test_sessions_of_other_recipes_continue_bit_for_bit(
    artifact_of: Callable[[Path, str], Path], two_layers: Path, tmp_path: Path, recipe: str
) -> None:
    model = Model.load(artifact_of(two_layers, recipe), threads=1)
    session = model.session()
    session.prefill(SEQUENCE[:77])
    session.save(tmp_path / "state")
    loaded = Session.load_state(tmp_path / "state", model)
    for token in SEQUENCE[77:120]:
        np.testing.assert_array_equal(loaded.step(token), session.step(token))
