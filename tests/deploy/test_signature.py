"""Tests of signatures: sigstore's own command agrees, and every kind of tampering is found."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from tramontane.cli import main as cli
from tramontane.deploy import signature as signatures
from tramontane.deploy.signature import SigningKey, Trusted, sign, signature_beside, verify
from tramontane.runtime.errors import ConfigError, ContractError
from tramontane.runtime.manifest import read_manifest, write_manifest

from ..cli.calls import output, refusal
from .small_artifact import write_artifact

FILES = ["LICENSE", ".gitattributes", "onnx/model.onnx", "onnx/model.onnx_data"]
_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
_PLAIN, _PUBLIC = serialization.NoEncryption(), serialization.PublicFormat.SubjectPublicKeyInfo


def write_key(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    """Write a private key, and its public key beside it as ``.pub``."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(_PEM, _PKCS8, _PLAIN))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(_PEM, _PUBLIC))
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "artifact", files=FILES)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path, "key")


@pytest.fixture
def trusted(key: Path) -> Trusted:
    return Trusted(key=key.with_suffix(".pub"))


@pytest.fixture
def signature(artifact: Path, key: Path) -> Path:
    path = signature_beside(artifact)
    sign(artifact, path, SigningKey(path=key))
    return path


def their_command(*words: object) -> subprocess.CompletedProcess[str]:
    """Sigstore's own command, ``model_signing``."""
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_signed_artifact_is_verified_wherever_its_folder_goes(
    artifact: Path, signature: Path, trusted: Trusted, tmp_path: Path
) -> None:
    moved = artifact.rename(tmp_path / "moved")
    assert verify(moved, signature, trusted) == read_manifest(moved)


@pytest.mark.slow
def test_sigstores_own_command_verifies_our_signature_and_we_verify_its(
    artifact: Path, signature: Path, key: Path, trusted: Trusted, tmp_path: Path
) -> None:
    public, all_files = ("--public_key", trusted.key), "--no-ignore-git-paths"
    words = ("verify", "key", artifact, "--signature", signature, *public, all_files)
    assert their_command(*words).returncode == 0
    theirs = tmp_path / "theirs.sig"
    words = ("sign", "key", artifact, "--signature", theirs, "--private_key", key, all_files)
    assert their_command(*words).returncode == 0
    assert verify(artifact, theirs, trusted) == read_manifest(artifact)
    (artifact / "LICENSE").write_bytes(b"Weights")
    words = ("verify", "key", artifact, "--signature", signature, *public, all_files)
    assert "Hash mismatch for 'LICENSE'" in their_command(*words).stderr


def test_signature_that_leaves_out_a_file_is_refused(
    artifact: Path, key: Path, trusted: Trusted, tmp_path: Path
) -> None:
    import model_signing

    part = tmp_path / "part.sig"
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(
        model_signing.hashing.Config().set_ignored_paths(paths=["onnx/model.onnx"])
    ).sign(artifact, part)
    with pytest.raises(ContractError, match=r"does not cover '.gitattributes', expected all"):
        verify(artifact, part, trusted)


def change(artifact: Path) -> None:
    (artifact / "onnx/model.onnx").write_bytes(b"Weights")


def change_with_its_manifest(artifact: Path) -> None:
    change(artifact)
    manifest = read_manifest(artifact)
    manifest.files["onnx/model.onnx"]["sha256"] = hashlib.sha256(b"Weights").hexdigest()
    write_manifest(artifact, manifest)


def add(artifact: Path) -> None:
    (artifact / "onnx" / "other.onnx").write_bytes(b"weights")


def remove(artifact: Path) -> None:
    (artifact / "LICENSE").unlink()


def rename(artifact: Path) -> None:
    (artifact / "LICENSE").rename(artifact / "LICENCE")


def exchange(artifact: Path) -> None:
    (artifact / "LICENSE").write_bytes((artifact / "manifest.json").read_bytes())


FAULTS: dict[Callable[[Path], None], str] = {
    change: "Hash mismatch for 'onnx/model.onnx'",
    change_with_its_manifest: "Hash mismatch for 'manifest.json'",
    add: "Extra files found in model 'artifact': onnx/other.onnx",
    remove: "Missing files in model 'artifact': LICENSE",
    rename: "Missing files in model 'artifact': LICENSE",
    exchange: "Hash mismatch for 'LICENSE'",
}


@pytest.mark.parametrize(
    ("fault", "said"), FAULTS.items(), ids=lambda f: getattr(f, "__name__", "")
)
def test_a_file_that_was_tampered_with_is_named(
    fault: Callable[[Path], None],
    said: str,
    artifact: Path,
    signature: Path,
    trusted: Trusted,
) -> None:
    fault(artifact)
    with pytest.raises(ContractError) as refused:
        verify(artifact, signature, trusted)
    assert said in str(refused.value)
    assert str(refused.value).endswith("fetch it again, or name the signer's key")


def with_payload(bundle: dict[str, object], old: str, new: str) -> None:
    envelope = bundle["dsseEnvelope"]
    assert isinstance(envelope, dict)
    payload = base64.b64decode(envelope["payload"]).decode()
    assert old in payload
    envelope["payload"] = base64.b64encode(payload.replace(old, new).encode()).decode()


def other_file(bundle: dict[str, object]) -> None:
    with_payload(bundle, '"LICENSE"', '"LICENCE"')


def other_signature(bundle: dict[str, object]) -> None:
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(b"x" * 70).decode()  # type: ignore[index]


def no_signature(bundle: dict[str, object]) -> None:
    bundle["dsseEnvelope"]["signatures"] = []  # type: ignore[index]


def no_hint(bundle: dict[str, object]) -> None:
    bundle["verificationMaterial"]["publicKey"] = {}  # type: ignore[index]


def other_hint(bundle: dict[str, object]) -> None:
    bundle["verificationMaterial"]["publicKey"] = {"hint": "0" * 64}  # type: ignore[index]


def other_type(bundle: dict[str, object]) -> None:
    bundle["dsseEnvelope"] = []


def other_media(bundle: dict[str, object]) -> None:
    bundle["mediaType"] = "text/plain"


CHANGES: dict[Callable[[dict[str, object]], None], str] = {
    other_file: "InvalidSignature",
    other_signature: "InvalidSignature",
    no_signature: "has 0 signatures of 'application/vnd.in-toto+json', expected one",
    no_hint: "verificationMaterial holds 'nothing', expected publicKey",
    other_hint: "Key mismatch",
    other_type: "not a signature (dsseEnvelope is [], expected an object)",
    other_media: "ValidationError: ",
}


@pytest.mark.parametrize(
    ("changed", "said"), CHANGES.items(), ids=lambda c: getattr(c, "__name__", "")
)
def test_a_signature_that_was_changed_is_refused(
    changed: Callable[[dict[str, object]], None],
    said: str,
    artifact: Path,
    signature: Path,
    trusted: Trusted,
) -> None:
    bundle = json.loads(signature.read_text())
    changed(bundle)
    signature.write_text(json.dumps(bundle))
    with pytest.raises(ContractError) as refused:
        verify(artifact, signature, trusted)
    assert said in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"a":' * 999, b"null"])
def test_what_is_no_signature_is_refused(
    content: bytes, artifact: Path, signature: Path, trusted: Trusted
) -> None:
    signature.write_bytes(content)
    with pytest.raises(ContractError, match="not a signature.*; sign the artifact again: "):
        verify(artifact, signature, trusted)


def test_another_key_is_refused(artifact: Path, signature: Path, tmp_path: Path) -> None:
    other = write_key(tmp_path, "other").with_suffix(".pub")
    with pytest.raises(ContractError, match="Key mismatch"):
        verify(artifact, signature, Trusted(key=other))


def test_every_flipped_byte_of_a_signature_is_refused_or_changes_nothing(
    artifact: Path, signature: Path, trusted: Trusted
) -> None:
    good = signature.read_bytes()
    for place in range(0, len(good), 97):
        signature.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(ContractError):
            verify(artifact, signature, trusted)


def test_a_signature_in_the_folder_signs_all_files_but_itself(
    artifact: Path, key: Path, trusted: Trusted
) -> None:
    inside = artifact / "model.sig"
    for _ in range(2):  # and it may be replaced
        sign(artifact, inside, SigningKey(path=key))
    verify(artifact, inside, trusted)
    (artifact / "onnx" / "model.sig").write_bytes(inside.read_bytes())
    with pytest.raises(ContractError, match=r"Extra files .*: onnx/model\.sig"):
        verify(artifact, inside, trusted)


def test_folders_of_git_and_of_the_hubs_downloader_are_not_signed(
    artifact: Path, signature: Path, key: Path, trusted: Trusted
) -> None:
    for name in (".git", ".cache"):
        (artifact / name).mkdir()
        (artifact / name / "any").write_text("text")
    verify(artifact, signature, trusted)
    sign(artifact, signature, SigningKey(path=key))
    verify(artifact, signature, trusted)
    (artifact / ".gitignore").write_text("text")
    with pytest.raises(ContractError, match=r"Extra files .*: \.gitignore"):
        verify(artifact, signature, trusted)


def test_files_of_a_hubs_cache_may_be_links(
    artifact: Path, signature: Path, trusted: Trusted, tmp_path: Path
) -> None:
    blob = (artifact / "LICENSE").rename(tmp_path / "blob")
    (artifact / "LICENSE").symlink_to(blob)
    verify(artifact, signature, trusted)
    blob.write_bytes(b"Weights")
    with pytest.raises(ContractError, match="Hash mismatch for 'LICENSE'"):
        verify(artifact, signature, trusted)


def test_a_damaged_artifact_is_not_signed(artifact: Path, key: Path) -> None:
    change(artifact)
    with pytest.raises(ContractError, match=r"onnx/model\.onnx: 7 bytes with sha256 "):
        sign(artifact, signature_beside(artifact), SigningKey(path=key))
    assert not signature_beside(artifact).exists()


def test_files_that_the_export_has_not_written_are_not_signed(artifact: Path, key: Path) -> None:
    add(artifact)
    with pytest.raises(ContractError, match=r"other\.onnx: is not among the manifest's files"):
        sign(artifact, signature_beside(artifact), SigningKey(path=key))


def test_a_key_is_never_overwritten(artifact: Path, key: Path) -> None:
    before = key.read_bytes()
    with pytest.raises(ContractError, match="exists and is no signature"):
        sign(artifact, key, SigningKey(path=key))
    assert key.read_bytes() == before


def test_a_signature_that_cannot_be_made_leaves_the_old_one_and_nothing_else(
    artifact: Path, signature: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, beside = signature.read_bytes(), sorted(artifact.parent.iterdir())
    from model_signing.signing import Config

    def fail(_: object, __: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Config, "sign", fail)
    with pytest.raises(ContractError, match="No space left on device"):
        sign(artifact, signature, SigningKey(path=key))
    assert signature.read_bytes() == before
    assert sorted(artifact.parent.iterdir()) == beside


def test_a_signature_in_no_folder_is_refused(artifact: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="cannot be written .No such file or directory"):
        sign(artifact, tmp_path / "no" / "a.sig", SigningKey(path=key))


@pytest.mark.parametrize("kind", ["public", "rsa", "encrypted", "curve", "text", "none"])
def test_a_key_that_cannot_sign_is_refused(
    kind: str, artifact: Path, key: Path, tmp_path: Path
) -> None:
    curve = ec.generate_private_key(ec.SECP256K1())
    locked = serialization.BestAvailableEncryption(b"word")
    contents = {
        "public": key.with_suffix(".pub").read_bytes(),
        "rsa": rsa.generate_private_key(65537, 1024).private_bytes(_PEM, _PKCS8, _PLAIN),
        "encrypted": curve.private_bytes(_PEM, _PKCS8, locked),
        "curve": curve.private_bytes(_PEM, _PKCS8, _PLAIN),
        "text": b"text",
    }
    path = tmp_path / "used.pem"
    if kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(ConfigError, match=str(path)) as refused:
        sign(artifact, signature_beside(artifact), SigningKey(path=path))
    assert "expected a " in str(refused.value)
    with pytest.raises(ConfigError, match=str(path)):
        sign(artifact, signature_beside(artifact), SigningKey(path=path, certificate=path))
    assert not signature_beside(artifact).exists()


def certify(
    folder: Path,
    name: str,
    *,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Write a key and its certificate; without an issuer it signs itself."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_key(folder, name, key)
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(issuer[0].subject if issuer else own)
        .public_key(key.public_key())
        .serial_number(7 if issuer else 6)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=9999))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=issuer is None, **usage),
            critical=True,
        )
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(_PEM))
    return certificate, key


def test_a_signature_by_a_certificate_is_verified_by_its_root_alone(
    artifact: Path, tmp_path: Path, trusted: Trusted
) -> None:
    root = certify(tmp_path, "root")
    certify(tmp_path, "signer", issuer=root)
    certify(tmp_path, "other")
    path = signature_beside(artifact)
    sign(
        artifact,
        path,
        SigningKey(path=tmp_path / "signer.pem", certificate=tmp_path / "signer.crt"),
    )
    verify(artifact, path, Trusted(roots=(tmp_path / "root.crt",)))
    with pytest.raises(ContractError, match="unable to get local issuer certificate"):
        verify(artifact, path, Trusted(roots=(tmp_path / "other.crt",)))
    with pytest.raises(ContractError, match="expected publicKey; --certificates verifies it"):
        verify(artifact, path, trusted)
    with pytest.raises(ConfigError, match="expected trusted certificates in PEM"):
        verify(artifact, path, Trusted(roots=(tmp_path / "root.pem",)))
    with pytest.raises(ConfigError, match="does not match"):
        sign(
            artifact,
            path,
            SigningKey(path=tmp_path / "other.pem", certificate=tmp_path / "signer.crt"),
        )
    change(artifact)
    with pytest.raises(ContractError, match="Hash mismatch"):
        verify(artifact, path, Trusted(roots=(tmp_path / "root.crt",)))


def test_a_signature_by_a_key_needs_the_key(artifact: Path, signature: Path) -> None:
    with pytest.raises(ContractError, match="expected x509CertificateChain; --key verifies it"):
        verify(artifact, signature, Trusted(roots=(signature,)))


def test_the_commands_sign_and_verify(
    artifact: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key.with_suffix(".pub")
    assert output(capsys, "sign", artifact, "--key", key) == (
        f"{artifact}.sig: signs 5 files, those of the manifest and itself\n"
    )
    assert output(capsys, "verify", artifact, "--key", public) == (
        f"{artifact}: verified, 5 files as signed by {artifact}.sig\n"
    )
    found = json.loads(output(capsys, "verify", artifact, "--key", public, "--json"))
    assert found == {"signature": f"{artifact}.sig", "files": 5, "verified": True}
    assert "belongs to a certificate" in refusal(
        capsys, "sign", artifact, "--key", key, "--chain", key
    )
    add(artifact)
    assert "Extra files found" in refusal(capsys, "verify", artifact, "--key", public)


@pytest.mark.parametrize("name", ["extra", "onnx/model.onnx"])
def test_a_link_to_a_file_without_an_end_is_refused(
    name: str, artifact: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = Path("/proc/self/pagemap")
    if not endless.exists():
        pytest.skip("this system has no such file")
    output(capsys, "sign", artifact, "--key", key)
    (artifact / name).unlink(missing_ok=True)
    (artifact / name).symlink_to(endless)
    told = refusal(capsys, "verify", artifact, "--key", key.with_suffix(".pub"))
    assert f"{artifact / name}: " in told
    assert "do not trust this artifact" in told


def test_the_signature_lies_beside_the_folder_however_it_is_named(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = artifact.with_name("artifact.sig")
    monkeypatch.chdir(artifact / "onnx")
    for name in ("..", f"../../{artifact.name}", str(artifact), f"{artifact}/"):
        assert signature_beside(Path(name)).resolve() == beside
    monkeypatch.chdir(artifact)
    assert signature_beside(Path()).resolve() == beside


@pytest.mark.parametrize("absent", ["model_signing", "OpenSSL"])
@pytest.mark.parametrize("command", ["sign", "verify"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    command: str,
    absent: str,
    artifact: Path,
    key: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name == absent:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, absent, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    said = refusal(capsys, command, artifact, "--key", key)
    assert said.startswith(f"tramontane: tramontane {command} needs the package {absent}, which")
    assert "[supply-chain]" in said


def test_examples_of_the_commands_are_complete() -> None:
    for module in (cli.sign, cli.verify):
        for example in module.EXAMPLES:
            cli.parser().parse_args(example.split()[1:])
    assert signatures.SUFFIX == ".sig"
