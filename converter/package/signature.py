"""Who made a package: a signature beside its manifest, in the format of OpenSSF Model Signing.

`model.sig` is a Sigstore bundle: a DSSE envelope around an in-toto statement with the SHA-256 of every other file. The
format, the hashing and keys of elliptic curves (P-256, P-384, P-521) are those of the library `model-signing`. Its
signer for key files takes no Ed25519 key, so that the 64 bytes of such a signature are made and checked here, by
`cryptography`; everything around them is the library's own.
"""

import base64
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import PackageDamaged, RuntimeMissing, UsageError
from converter.package.manifest import MANIFEST, SIGNATURE, check_files, read_manifest
from converter.package.output_marker import renew_marker, walk

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PASSWORD = "PLM_EXPORT_KEY_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with the password of an encrypted private key: nothing is ever asked for."""
MOST_BYTES = 16 * 2**20
"""A signature has about 150 bytes a file."""
MAKE_KEYS = "openssl genpkey -algorithm ed25519 -out KEY.pem && openssl pkey -in KEY.pem -pubout -out PUBLIC.pem"


@dataclass(frozen=True)
class SigningKey:
    """A private key that was read and can sign."""

    path: Path
    private: Any
    """Of `cryptography`: Ed25519, or an elliptic curve's."""

    def sign(self, folder: Path) -> Path:
        """Sign every file of a sealed package; returns the signature's path. The same files give the same bytes.

        Raises:
            PackageDamaged: the package is not as it was sealed: that is not signed.

        """
        check_files(folder, read_manifest(folder))
        _regular_files(folder)
        from model_signing._signing import sign_ec_key, signing

        payload = signing.Payload(_hashing().hash(folder))
        signer: Any = sign_ec_key.Signer.__new__(sign_ec_key.Signer)
        signer._private_key = self.private  # noqa: SLF001 - read already, and perhaps encrypted
        made = _sign_ed25519(self.private, payload) if _is_ed25519(self.private) else signer.sign(payload)
        path = folder / SIGNATURE
        partial = path.with_suffix(".sig.partial")
        made.write(partial)
        partial.replace(path)
        renew_marker(folder.parent, (), added=[f"{folder.name}/{SIGNATURE}"])
        return path


def read_signing_key(path: Path) -> SigningKey:
    """Read a private key in PEM.

    Raises:
        UsageError: it cannot be read, is encrypted with another password, or is of a kind that cannot sign.
        RuntimeMissing: model-signing is not installed.

    """
    _check_library()
    from cryptography.hazmat.primitives import serialization

    password = os.environ.get(PASSWORD)
    try:
        found = serialization.load_pem_private_key(_pem(path), password.encode() if password else None)
    except (ValueError, TypeError) as error:
        said = "it is encrypted" if isinstance(error, TypeError) and not password else "not a private key in PEM"
        hint = f"{PASSWORD}=… in the environment" if isinstance(error, TypeError) else MAKE_KEYS
        raise UsageError(f"{said} ({error})", where=str(path), hint=hint) from None
    _check_kind(found.public_key(), path)
    return SigningKey(path, found)


def check_signature(folder: Path, key: Path) -> str:
    """Check that `folder` holds what the owner of the public `key` signed, and nothing else; returns the key's SHA-256.

    Raises:
        UsageError: the key cannot be read.
        PackageDamaged: there is no signature, it is by another key, or a file was changed, added or removed since.
        RuntimeMissing: model-signing is not installed.

    """
    _check_library()
    public = _read_public(key)
    fingerprint = hashlib.sha256(_as_pem(public)).hexdigest()
    signed = {r.identifier: r.digest.digest_hex for r in _signed_by(public, folder).resource_descriptors()}
    if MANIFEST not in signed:
        raise PackageDamaged(f"the signature does not cover {MANIFEST}", where=str(folder / SIGNATURE))
    _regular_files(folder)
    found = {r.identifier: r.digest.digest_hex for r in _hashing().hash(folder).resource_descriptors()}
    wrong = [f"{name} is missing" for name in sorted(signed.keys() - found.keys())]
    wrong += [f"{name} was added after signing" for name in sorted(found.keys() - signed.keys())]
    both = sorted(signed.keys() & found.keys())
    wrong += [f"{name} has changed since it was signed" for name in both if signed[name] != found[name]]
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise PackageDamaged("; ".join(wrong[:5]) + more, where=str(folder), hint="fetch the package again")
    return fingerprint


def is_signed(folder: Path) -> bool:
    """Tell whether there is a signature at all; only a public key tells whether it is good."""
    return (folder / SIGNATURE).is_file()


def _hashing() -> Any:
    from model_signing import hashing

    made = hashing.Config().use_file_serialization(allow_symlinks=False)
    # All files count, those of git too; the signature itself alone cannot be in what it signs.
    return made.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _signed_by(public: Any, folder: Path) -> Any:
    """Return the table of files that a signature by `public` covers."""
    from cryptography.exceptions import InvalidSignature
    from model_signing._signing import sign_ec_key, sign_sigstore_pb

    path = folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        raise PackageDamaged("the package is not signed", where=str(folder), hint="plm-export sign PACKAGE --key KEY")
    if path.stat().st_size > MOST_BYTES:
        raise PackageDamaged("that is no signature: it is too large", where=str(path))
    verifier: Any = _ed25519_verifier(public)
    if verifier is None:
        verifier = sign_ec_key.Verifier.__new__(sign_ec_key.Verifier)
        verifier._public_key = public  # noqa: SLF001 - read already
    try:
        return verifier.verify(sign_sigstore_pb.Signature.read(path))
    except InvalidSignature:
        raise PackageDamaged("the signature is not valid for this key", where=str(path)) from None
    except Exception as error:  # noqa: BLE001 - a damaged bundle fails in many ways
        what = "signed with another key" if "Key mismatch" in str(error) else f"not a sound signature ({error})"
        raise PackageDamaged(what, where=str(path), hint="give the public key of whoever made the package") from None


def _sign_ed25519(private: "Ed25519PrivateKey", payload: Any) -> Any:
    """Return the bundle that the library's signer for key files makes, with an Ed25519 signature in it."""
    from google.protobuf import json_format
    from model_signing._signing import sign_sigstore_pb, signing
    from sigstore_models import intoto
    from sigstore_models.bundle import v1 as bundle
    from sigstore_models.common import v1 as common

    content = json_format.MessageToJson(payload.statement.pb, sort_keys=True).encode()
    signature = base64.b64encode(private.sign(sign_sigstore_pb.pae(content)))
    hint = hashlib.sha256(_as_pem(private.public_key())).hexdigest()
    return sign_sigstore_pb.Signature(
        bundle.Bundle(
            media_type=sign_sigstore_pb._BUNDLE_MEDIA_TYPE,  # noqa: SLF001
            verification_material=bundle.VerificationMaterial(
                public_key=common.PublicKeyIdentifier(hint=hint), tlog_entries=[]
            ),
            dsse_envelope=intoto.Envelope(
                payload=base64.b64encode(content),
                payload_type=signing._IN_TOTO_JSON_PAYLOAD_TYPE,  # noqa: SLF001
                signatures=[intoto.Signature(sig=signature, keyid="")],
            ),
        )
    )


def _ed25519_verifier(public: Any) -> Any:
    """Return a verifier of the library's kind; None for another kind of key."""
    if not _is_ed25519(public):
        return None
    from model_signing._signing import sign_sigstore_pb

    class Verifier(sign_sigstore_pb.Verifier):
        def _verify_bundle(self, bundle: Any) -> tuple[str, bytes]:
            _check_hint(bundle, public)
            envelope = bundle.dsse_envelope
            if len(envelope.signatures) != 1:
                raise ValueError("it has not exactly one signature")
            public.verify(envelope.signatures[0].sig, sign_sigstore_pb.pae(envelope.payload))
            return envelope.payload_type, envelope.payload

    return Verifier()


def _check_hint(bundle: Any, public: "Ed25519PublicKey") -> None:
    found = bundle.verification_material.public_key.hint
    if found != hashlib.sha256(_as_pem(public)).hexdigest():
        raise ValueError("Key mismatch")


def _read_public(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization

    try:
        found = serialization.load_pem_public_key(_pem(path))
    except ValueError as error:
        raise UsageError(
            f"not a public key in PEM ({error})",
            where=str(path),
            hint="openssl pkey -in KEY.pem -pubout -out PUBLIC.pem",
        ) from None
    _check_kind(found, path)
    return found


def _check_kind(public: Any, path: Path) -> None:
    from model_signing._signing import sign_ec_key

    if _is_ed25519(public):
        return
    try:
        sign_ec_key._check_supported_ec_key(public)  # noqa: SLF001
    except (ValueError, AttributeError):
        raise UsageError(
            f"{type(public).__name__} is a kind of key that is not supported", where=str(path), hint=MAKE_KEYS
        ) from None


def _is_ed25519(key: Any) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return isinstance(key, (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey))


def _as_pem(public: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    made: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return made


def _pem(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise UsageError("there is no such key file", where=str(path), hint=MAKE_KEYS)
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"the key cannot be read ({error.strerror})", where=str(path)) from None


def _regular_files(folder: Path) -> None:
    """Refuse what is no plain file before it is hashed: a pipe would never end."""
    for name in walk(folder):
        path = folder / name
        if not name.endswith("/") and not stat.S_ISREG(path.lstat().st_mode):
            raise PackageDamaged(f"{name} is a link or no file at all", where=str(folder))


def _check_library() -> None:
    try:
        import model_signing._signing.sign_ec_key  # noqa: F401 - what signs and checks needs all of it
    except ImportError:
        raise RuntimeMissing(
            "model-signing is not installed, which signs and checks signatures",
            hint="python -m pip install 'plm-export[signing]'",
        ) from None


def signed_by(folder: Path, key: Path | None) -> dict[str, str]:
    """Return who has signed a package, checked by a public key; without one, only that a signature is there.

    Raises:
        PackageDamaged: it is not signed by that key, or has changed since.

    """
    if key is not None:
        return {"signed_by": check_signature(folder, key)}
    return {"signed_by": "not checked"} if is_signed(folder) else {}
