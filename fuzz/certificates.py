"""Good keys, certificates and signatures of an artifact, and what signs and verifies with them."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from ..deploy.signature import SigningKey, Trusted, sign, verify
from .good_files import manifest

ARTIFACT, KEY, PUBLIC = "artifact", "key.pem", "key.pub"
SIGNED, CERTIFIED = "artifact.sig", "certified.sig"
ROOT, SIGNER = "root.crt", "signer.crt"
_NEW = "new.sig"
_START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_DAYS = 36_500
_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_ROOT_KEY, _SIGNER_KEY = (derive_private_key(number, SECP256R1()) for number in (2, 1))


def make_signed(folder: Path) -> None:
    """Write an artifact, a key pair, a certificate from a root, and a signature by each."""
    artifact = folder / ARTIFACT
    artifact.mkdir()
    manifest(artifact)
    (folder / KEY).write_bytes(
        _SIGNER_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    public = _SIGNER_KEY.public_key()
    (folder / PUBLIC).write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for name, key in ((ROOT, _ROOT_KEY), (SIGNER, _SIGNER_KEY)):
        (folder / name).write_bytes(_certify(name, key).public_bytes(Encoding.PEM))
    sign(artifact, folder / SIGNED, SigningKey(path=folder / KEY))
    sign(artifact, folder / CERTIFIED, _certified(folder))


def verify_by_key(folder: Path) -> None:
    """Verify the key's signature."""
    verify(folder / ARTIFACT, folder / SIGNED, Trusted(key=folder / PUBLIC))


def verify_by_root(folder: Path) -> None:
    """Verify the certificate's signature."""
    verify(folder / ARTIFACT, folder / CERTIFIED, Trusted(roots=(folder / ROOT,)))


def sign_by_key(folder: Path) -> None:
    """Sign with the key."""
    sign(folder / ARTIFACT, folder / _NEW, SigningKey(path=folder / KEY))


def sign_by_certificate(folder: Path) -> None:
    """Sign with the key and its certificate."""
    sign(folder / ARTIFACT, folder / _NEW, _certified(folder))


def _certified(folder: Path) -> SigningKey:
    return SigningKey(path=folder / KEY, certificate=folder / SIGNER)


def _certify(name: str, key: EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate that the root signs, its own too."""
    is_root = name == ROOT
    uses = dict.fromkeys(_USES, False) | {"digital_signature": True, "key_cert_sign": is_root}
    own, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, ROOT))
    return (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(6 if is_root else 7)
        .not_valid_before(_START)
        .not_valid_after(_START + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**uses), critical=True)
        .sign(_ROOT_KEY, hashes.SHA256())
    )
