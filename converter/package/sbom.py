"""`sbom.cdx.json`: what a package is made of and from, as a CycloneDX bill of materials for machine learning (ML-BOM).

It is the same to the byte for the same package: its serial number follows from the files that it lists, and there is a
time in it only where SOURCE_DATE_EPOCH gives one.
"""

import json
import math
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import converter
from converter.errors import UsageError
from converter.jsonfile import json_text
from converter.package.readme import weights_digest

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

    from converter.artifact import Bundle, SourceCard, TorchModel
    from converter.recipe import ChosenPrecision
    from converter.target import Target
    from converter.validate.checks import Evaluation

BOM = "sbom.cdx.json"
"""Tools look for files of the form `*.cdx.json`."""
NAMESPACE = uuid.UUID("6f1f3f0e-2a6c-5f0b-9d5e-6d0c3b8f2a11")
MODEL, SOURCE = "model", "source"
EPOCH = "SOURCE_DATE_EPOCH"


def write_bom(
    target: "Target",
    precision: "ChosenPrecision",
    bundle: "Bundle",
    evaluation: "Evaluation",
    source: "TorchModel",
    manifest: Mapping[str, Any],
) -> Path:
    """Write the bill of materials of a finished bundle; returns its path.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is no number of seconds.

    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    bom = Bom(serial_number=uuid.uuid5(NAMESPACE, f"{bundle.digest} {manifest['precision']}"))
    bom.metadata.component = _model(target, precision, bundle, source)
    bom.metadata.tools.components.add(_library("plm-export", converter.__version__, runs=False))
    runtime = str(manifest.get("runtime", "")).split(" ", 1)[0]
    libraries = [_library(n, v, runs=n == runtime) for n, v in manifest["versions"].items() if n != "python"]
    for component in (*libraries, *_files(bundle)):
        bom.components.add(component)
    bom.register_dependency(bom.metadata.component, [c for c in libraries if c.name == runtime])
    table = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    # The library gives every document the time at which it was made, and knows no model cards.
    table["metadata"].pop("timestamp", None)
    table["metadata"] |= _time()
    table["metadata"]["component"]["modelCard"] = _model_card(source, evaluation)
    path = bundle.folder / BOM
    path.write_text(json_text(table), encoding="utf-8")
    return path


def _time() -> dict[str, str]:
    given = os.environ.get(EPOCH)
    if not given:
        return {}
    try:
        return {"timestamp": datetime.fromtimestamp(int(given), UTC).isoformat()}
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"wanted a number of seconds since 1970, found {given!r}", where=EPOCH) from None


def _model(target: "Target", precision: "ChosenPrecision", bundle: "Bundle", source: "TorchModel") -> "Component":
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    made = source.provenance
    ancestor = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=SOURCE,
        name=made.id,
        version=made.revision,
        licenses=licences(source.card),
        hashes=[_sha256(weights_digest(made.weights_sha256))] if made.weights_sha256 else [],
        properties=[Property(name=f"plm-export:sha256:{n}", value=d) for n, d in sorted(made.weights_sha256.items())],
    )
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=MODEL,
        name=f"{made.id} for {target.name}",
        description=f"{source.task.name}, exported by plm-export",
        licenses=licences(source.card),
        hashes=[_sha256(bundle.digest)],
        pedigree=Pedigree(ancestors=[ancestor]),
        properties=[
            Property(name="plm-export:precision", value=str(precision)),
            Property(name="plm-export:target", value=target.name),
        ],
    )


def licences(card: "SourceCard") -> "list[License]":
    """Return the licence as CycloneDX has it: by its SPDX id where it has one, else by its name."""
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import fixup_id

    known = fixup_id(card.licence or "")
    if known:
        return [DisjunctiveLicense(id=known)]
    name = card.licence_name or card.licence or ", ".join(card.notices)
    return [DisjunctiveLicense(name=name)] if name else []


def _library(name: str, version: str, *, runs: bool) -> "Component":
    """Return a Python distribution: what the package `runs` in, or what only took part in making it."""
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi:{name}",
        name=name,
        version=version,
        purl=PackageURL("pypi", name=name, version=version),
        scope=ComponentScope.REQUIRED if runs else ComponentScope.EXCLUDED,
    )


def _files(bundle: "Bundle") -> "list[Component]":
    from cyclonedx.model.component import Component, ComponentType

    from converter.artifact import files_digest

    names = sorted(p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*") if p.is_file())
    return [
        Component(
            type=ComponentType.FILE,
            bom_ref=f"file:{name}",
            name=name,
            hashes=[_sha256(files_digest({name: bundle.folder / name}))],
        )
        for name in names
        if name != BOM
    ]


def _sha256(digest: str) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _model_card(source: "TorchModel", evaluation: "Evaluation") -> dict[str, Any]:
    agreement = evaluation.agreement
    metrics = {
        **{name: f"{value:.6g}" for name, value in sorted(evaluation.metric.items())},
        **{f"{name} of the source": f"{value:.6g}" for name, value in sorted(evaluation.source_metric.items())},
        **({"agreement with the source": f"{agreement:.6g}"} if math.isfinite(agreement) else {}),
    }
    return {
        "modelParameters": {
            "task": source.task.name,
            "architectureFamily": str(source.config.model_type),
            "modelArchitecture": type(source.module).__name__,
            "inputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [{"type": n, "value": v} for n, v in metrics.items()]},
    }
