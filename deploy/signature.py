"""Signs an artifact, and verifies a signature, in sigstore's format for models, offline.

A signature is a sigstore bundle over the names and sha256 of all files of the artifact,
``manifest.json`` included. Source: the package model-signing, which makes and verifies it.
"""

from __future__ import annotations

import base64
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ..console import hints
from ..graphs.writing.own_folders import foreign_files
from ..runtime.contract import MANIFEST_FILE
from ..runtime.durable import replace_file
from ..runtime.errors import ConfigError, ContractError, TramontaneError, printable
from ..runtime.manifest import Manifest, read_manifest, verify_files
from ..runtime.untrusted.fields import decode, shown
from ..runtime.untrusted.files import has_more_than_its_size, is_file, read_file, refuse_impossible
from ..runtime.untrusted.json_text import SMALL_BYTES, parse_object
from .supply_chain import needs_packages

SUFFIX = ".sig"  # of a signature beside the artifact
# Of git and of the hub's downloader, which keep them in a folder that they fetch. They are not
# signed: the driver reads the manifest's files alone.
OF_OTHER_TOOLS = (".git", ".cache")
_MOST_KEY_BYTES = 1 << 20
_PAYLOAD = "application/vnd.in-toto+json"
_MAKE_KEY = (
    "make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem; openssl ec -in "
    "key.pem -pubout -out key.pub"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SigningKey:
    """A private key, and the certificate of its public key where verifiers trust a root."""

    path: Path  # PEM, an elliptic curve, not encrypted
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()  # certificates between it and the root


@dataclass(frozen=True, kw_only=True, slots=True)
class Trusted:
    """What a verifier trusts: one public key, or root certificates."""

    key: Path | None = None
    roots: tuple[Path, ...] = ()


def signature_beside(artifact: Path) -> Path:
    """Where a signature lies if no other place is named: beside the artifact's folder."""
    folder = artifact.resolve() if artifact.name in ("", "..") else artifact
    return folder.parent / f"{folder.name}{SUFFIX}"


def sign(artifact: Path, signature: Path, key: SigningKey) -> Manifest:
    """Sign all files of an artifact; a signature of that name is replaced at once, or stays.

    Args:
        artifact: the folder; its files must equal the manifest's hashes.
        signature: the file to write, beside the folder or in it.
        key: what to sign with.

    Raises:
        ContractError: the artifact is damaged or holds other files, the signature cannot be
            written, or a package is missing.
        ConfigError: the key or a certificate cannot be used.
    """
    with needs_packages("tramontane sign", "model_signing", "OpenSSL"):
        from model_signing import signing
    refuse_impossible(signature, option="--signature")
    manifest = read_manifest(artifact)
    verify_files(artifact, manifest)
    _refuse_foreign(artifact, manifest, signature)
    _refuse_overwriting(signature)
    for path in (key.path, *filter(None, [key.certificate]), *key.chain):
        read_file(path, most=_MOST_KEY_BYTES, error=ConfigError, remedy="name a file in PEM")
    config = signing.Config()
    where = f"--key {key.path}"
    if key.certificate is None:
        with _refusing(ConfigError, where, "a private key of P-256, P-384 or P-521", _MAKE_KEY):
            config.use_elliptic_key_signer(private_key=key.path)
    else:
        with _refusing(
            ConfigError,
            f"{where}, --certificate {key.certificate}",
            "a private key of P-256, P-384 or P-521, and the certificate of its public key in PEM",
            "name files that belong together",
        ):
            config.use_certificate_signer(
                private_key=key.path,
                signing_certificate=key.certificate,
                # The package cannot read an empty chain; the certificate adds nothing to it.
                certificate_chain=key.chain or (key.certificate,),
            )
    config.set_hashing_config(_hashing(artifact, signature))
    with (
        _written(signature) as unfinished,
        _refusing(ContractError, artifact, "files that can be read", "run the command again"),
    ):
        config.sign(artifact, unfinished)
    return manifest


def verify(artifact: Path, signature: Path, trusted: Trusted) -> Manifest:
    """Verify that a trusted key signed exactly these files of an artifact.

    Args:
        artifact: the folder.
        signature: as ``sign`` writes it.
        trusted: whose signature is accepted.

    Returns:
        The artifact's manifest, which is one of the signed files.

    Raises:
        ContractError: the signature is none, is of another key, or a file was changed, added,
            removed or renamed; or a package is missing.
        ConfigError: the trusted key or certificate cannot be used.
    """
    with needs_packages("tramontane verify", "model_signing", "OpenSSL"):
        from model_signing import verifying
    manifest = read_manifest(artifact)
    remedy = f"sign the artifact again: {hints.suggest('sign', OUT=artifact, KEY='key.pem')}"
    bundle = _read_bundle(signature, remedy)
    config = verifying.Config()
    if trusted.key is not None:
        _refuse_other_material(bundle, "publicKey", signature, "--certificates verifies it")
        read_file(trusted.key, most=_MOST_KEY_BYTES, error=ConfigError, remedy="name a PEM file")
        with _refusing(
            ConfigError,
            f"--key {trusted.key}",
            "the public key of the signer in PEM, of P-256, P-384 or P-521",
            "of a private key: openssl ec -in key.pem -pubout -out key.pub",
        ):
            config.use_elliptic_key_verifier(public_key=trusted.key)
    else:
        _refuse_other_material(bundle, "x509CertificateChain", signature, "--key verifies it")
        for root in trusted.roots:
            read_file(root, most=_MOST_KEY_BYTES, error=ConfigError, remedy="name a PEM file")
        with _refusing(
            ConfigError,
            f"--certificates {' '.join(map(str, trusted.roots))}",
            "trusted certificates in PEM",
            "name the root that the signer's certificate comes from",
        ):
            config.use_certificate_verifier(certificate_chain=trusted.roots)
    config.set_hashing_config(_hashing(artifact, signature))
    _refuse_endless(artifact)
    with _refusing(
        ContractError,
        f"{artifact}, signature {signature}",
        "the files that this key signed",
        "do not trust this artifact; fetch it again, or name the signer's key",
    ):
        config.verify(artifact, signature)
    _refuse_partial(bundle, manifest, signature, remedy)
    return manifest


class _Envelope(TypedDict):
    payload: str
    payloadType: str
    signatures: list[dict[str, Any]]


class _Bundle(TypedDict):
    mediaType: str
    verificationMaterial: dict[str, Any]
    dsseEnvelope: _Envelope


class _Resource(TypedDict):
    name: str


class _Predicate(TypedDict):
    resources: list[_Resource]


class _Payload(TypedDict):
    """What is signed, as far as it is read here."""

    predicate: _Predicate


def _read_bundle(signature: Path, remedy: str) -> _Bundle:
    """A signature's file, of the types that its fields must have; nothing is verified yet."""
    content = read_file(signature, most=SMALL_BYTES, remedy=remedy)
    found = parse_object(content, what=f"{signature}: not a signature", remedy=remedy)
    try:
        bundle: _Bundle = decode(_Bundle, found, where="")
    except ContractError as error:
        raise ContractError(f"{signature}: not a signature ({error}); {remedy}") from error
    envelope = bundle["dsseEnvelope"]
    count, kind = len(envelope["signatures"]), envelope["payloadType"]
    if kind != _PAYLOAD or count != 1:
        raise ContractError(
            f"{signature}: dsseEnvelope has {count} signatures of {shown(kind)}, expected one of "
            f"{_PAYLOAD}; {remedy}"
        )
    return bundle


def _refuse_other_material(bundle: _Bundle, kind: str, signature: Path, advice: str) -> None:
    """Refuse a signature of a certificate where a key is trusted, and the reverse."""
    material = bundle["verificationMaterial"]
    # Without a hint the package only warns, on standard output.
    held = material.get(kind)
    if not isinstance(held, dict) or not any(held.values()):
        others = sorted(name for name, value in material.items() if value and name != kind)
        raise ContractError(
            f"{signature}: verificationMaterial holds {shown(', '.join(others) or 'nothing')}, "
            f"expected {kind}; {advice if others else 'sign the artifact again'}"
        )


def _refuse_partial(bundle: _Bundle, manifest: Manifest, signature: Path, remedy: str) -> None:
    """Refuse a signature that leaves out files of the artifact: a signer may name such paths."""
    with _refusing(ContractError, signature, "a list of signed files", remedy):
        content = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    found = parse_object(content, what=f"{signature}: payload", remedy=remedy)
    try:
        payload: _Payload = decode(_Payload, found, where="payload")
    except ContractError as error:
        raise ContractError(f"{signature}: {error}; {remedy}") from error
    signed = {resource["name"] for resource in payload["predicate"]["resources"]}
    if missing := sorted({MANIFEST_FILE, *manifest.files} - signed):
        raise ContractError(
            f"{signature}: does not cover {shown(missing[0])}, expected all files of the "
            f"artifact; {remedy}"
        )


def _hashing(artifact: Path, signature: Path) -> Any:
    """How files are hashed: all of them, by sha256, but the signature and other tools' folders."""
    from model_signing import hashing

    ignored = [*OF_OTHER_TOOLS]
    if _is_inside(signature, artifact):
        ignored.append(signature.resolve().relative_to(artifact.resolve()).as_posix())
    # A hub's cache holds links to its files; what they lead to is hashed.
    return (
        hashing.Config()
        .use_file_serialization(hashing_algorithm="sha256", allow_symlinks=True)
        .set_ignored_paths(paths=ignored, ignore_git_paths=False)
        .set_allow_symlinks(True)
    )


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _refuse_foreign(artifact: Path, manifest: Manifest, signature: Path) -> None:
    """Refuse to sign what the export has not written."""
    own = {MANIFEST_FILE, *manifest.files}
    if _is_inside(signature, artifact):
        own.add(signature.resolve().relative_to(artifact.resolve()).as_posix())
    found = [n for n in foreign_files(artifact, own) if n.split("/")[0] not in OF_OTHER_TOOLS]
    if found:
        raise ContractError(
            f"{artifact / found[0]}: is not among the manifest's files, expected those alone; "
            "move it elsewhere, then sign"
        )


def _refuse_endless(artifact: Path) -> None:
    """Refuse links to files of the system that have no end: the package reads all of a file."""
    for name in foreign_files(artifact, set()):
        path = artifact / name
        try:
            is_endless = is_file(path) and has_more_than_its_size(path)
        except OSError as error:
            raise ContractError(
                f"{path}: {error.strerror}, expected a file that can be read; do not trust this "
                "artifact"
            ) from error
        if is_endless:
            raise ContractError(
                f"{path}: holds more bytes than its size, expected a file of a disk; do not trust "
                "this artifact"
            )


def _refuse_overwriting(signature: Path) -> None:
    """Refuse to replace any file but a signature: a key may have been named by mistake."""
    if not signature.exists():
        return
    try:
        _read_bundle(signature, "")
    except ContractError as error:
        raise ContractError(
            f"--signature {signature}: exists and is no signature, expected a new name or an old "
            "signature; name another file"
        ) from error


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file beside a path, which takes its name when the block succeeds.

    Raises:
        ContractError: it cannot be written there.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            unfinished = Path(scratch, path.name)
            yield unfinished
            replace_file(unfinished, path)
    except OSError as error:
        raise ContractError(
            f"--signature {path}: cannot be written ({error.strerror}); name another file"
        ) from error


@contextlib.contextmanager
def _refusing(
    kind: type[TramontaneError], where: object, expected: str, remedy: str
) -> Iterator[None]:
    """Turn what the package raises into an error of ours.

    It reads untrusted files by their fields' names, so that a wrong one ends in an error of any
    type; none of them says where.
    """
    try:
        yield
    except TramontaneError:
        raise
    except Exception as error:
        said = printable(f"{type(error).__name__}: {error}".rstrip(": "), most=600)
        raise kind(f"{where}: {said}, expected {expected}; {remedy}") from error
