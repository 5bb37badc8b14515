"""Lists what an artifact holds and where it came from, as a CycloneDX bill of materials.

Everything is read from ``manifest.json``: the same manifest gives the same text, without times and
random numbers. Source: CycloneDX 1.6, and the package cyclonedx-python-lib, which writes it.
"""

from __future__ import annotations

import json
import re
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from ..runtime.contract import MANIFEST_FILE
from ..runtime.errors import ContractError
from ..runtime.manifest import Manifest, read_manifest, to_json
from ..runtime.untrusted.fields import decode, shown
from .supply_chain import needs_packages

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = "tramontane:"  # of names of properties


class _CalibrationText(TypedDict):
    sha256: str
    tokens: int


class _Origin(TypedDict, total=False):
    name: str
    base_model: str
    revision: str
    license: str
    license_name: str
    license_link: str
    license_files: list[str]
    calibration_text: _CalibrationText


def bill_of_materials(artifact: Path) -> dict[str, Any]:
    """The bill of materials of an artifact, as JSON.

    Its main component is the artifact with its files; the checkpoint, with its own files, is the
    ancestor. Tools are those of the export. ``tramontane inspect`` compares the files.

    Raises:
        ContractError: the artifact's manifest cannot be read, or has a hash that is none; or a
            package is missing.
    """
    manifest = read_manifest(artifact)
    with needs_packages("tramontane sbom", "cyclonedx", "packageurl"):
        import cyclonedx.exception
        import cyclonedx.output.json
    where = artifact / MANIFEST_FILE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of a text that is too long
            return _bill(manifest)
    except ContractError as error:
        raise ContractError(f"{where}: {error}; export again") from error
    except (
        cyclonedx.exception.CycloneDxException,
        UserWarning,
        ValueError,
    ) as error:  # the last of packageurl
        raise ContractError(
            f"{where}: a field cannot be written as CycloneDX ({error}), expected what export "
            "writes; export again"
        ) from error


def as_text(content: Mapping[str, Any]) -> str:
    """A bill of materials as text."""
    return to_json(content)


def _bill(manifest: Manifest) -> dict[str, Any]:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    origin: _Origin = decode(_Origin, manifest.origin, where="origin")
    checkpoint = _checkpoint(manifest, origin)
    main = _artifact(manifest, origin)
    tools = [_tool(name, version) for name, version in sorted(manifest.tools.items())]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, manifest.sha256),
        metadata=BomMetaData(component=main),
        components=[checkpoint, *tools],
    )
    bom.register_dependency(main, [checkpoint, *tools])
    text = JsonV1Dot6(bom).output_as_string()
    content: dict[str, Any] = json.loads(text)
    del content["metadata"]["timestamp"]  # optional, but the package always writes it
    return content


def _artifact(manifest: Manifest, origin: _Origin) -> Any:
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    files, texts = [], origin.get("license_files", [])
    for name, promised in sorted(manifest.files.items()):
        notes = {"bytes": promised["bytes"], "role": "licence text" if name in texts else None}
        files.append(_file("artifact", name, promised["sha256"], notes))
    # Each reference of a bill is unique: the ancestor is named here, and described beside it.
    ancestor = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL, name=_name(origin), purl=_purl(origin)
    )
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=f"{_name(origin)}-{manifest.quant}-{manifest.target}",
        version=manifest.sha256,
        bom_ref="artifact",
        licenses=_licenses(origin),
        properties=_properties(
            {
                "quant": manifest.quant,
                "target": manifest.target,
                "recipe": manifest.recipe,
                "bits_per_weight": manifest.bits_per_weight,
                "tokenizer_json": manifest.tokenizer_json,
            }
        ),
        components=files,
        pedigree=Pedigree(ancestors=[ancestor]),
    )


def _checkpoint(manifest: Manifest, origin: _Origin) -> Any:
    """The checkpoint and the calibration text, by their files' hashes."""
    from cyclonedx.model.component import Component, ComponentType

    files = [_file("checkpoint", name, found) for name, found in sorted(manifest.source.items())]
    if text := origin.get("calibration_text"):
        notes = {"tokens": text["tokens"]}
        files.append(_file("calibration", "text", text["sha256"], notes, is_data=True))
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=_name(origin),
        version=origin.get("revision"),
        bom_ref="checkpoint",
        licenses=_licenses(origin),
        purl=_purl(origin),
        components=files,
    )


def _tool(name: str, version: str) -> Any:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    purl = PackageURL("pypi", None, name, version)
    return Component(name=name, version=version, bom_ref=f"tool/{name}", purl=purl)


def _file(
    part: str,
    name: str,
    digest: str,
    notes: Mapping[str, object] | None = None,
    *,
    is_data: bool = False,
) -> Any:
    """A file of a part of the bill.

    Raises:
        ContractError: its hash is none.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    if not _SHA256.fullmatch(digest):
        raise ContractError(
            f"{part} file {shown(name)} has hash {shown(digest)}, expected 64 digits of sha256"
        )
    return Component(
        type=ComponentType.DATA if is_data else ComponentType.FILE,
        name=name,
        bom_ref=f"{part}/{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        properties=_properties(notes or {}),
    )


def _purl(origin: _Origin) -> Any:
    """The package URL of a model on the Hugging Face Hub; None where it is not known."""
    from packageurl import PackageURL

    base = origin.get("base_model")
    if base is None:
        return None
    organization, _, name = base.rpartition("/")
    return PackageURL("huggingface", organization or None, name, origin.get("revision"))


def _name(origin: _Origin) -> str:
    return origin.get("name", "unnamed")


def _licenses(origin: _Origin) -> Iterable[Any]:
    """The licence as the checkpoint's card has it: an SPDX identifier where it is one."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import XsUri
    from cyclonedx.model.license import DisjunctiveLicense

    if "license" not in origin:
        return []
    if "license_name" in origin:  # cards say "license: other" then
        link = origin.get("license_link")
        url = XsUri(link) if link is not None else None
        return [DisjunctiveLicense(name=origin["license_name"], url=url)]
    return [LicenseFactory().make_from_string(origin["license"])]


def _properties(values: Mapping[str, object]) -> list[Any]:
    from cyclonedx.model import Property

    return [
        Property(name=f"{_PREFIX}{name}", value=str(value))
        for name, value in values.items()
        if value is not None
    ]
