"""A signature covers every file of a package: nothing is changed, added or removed behind its back."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from converter.errors import PackageDamaged, UsageError
from converter.jsonfile import json_text
from converter.package.manifest import DIGEST, MANIFEST, SIGNATURE, _digest, check_files, read_manifest
from converter.package.output_marker import inspect_place, write_marker
from converter.package.signature import PASSWORD, check_signature, is_signed, read_signing_key
from tests.sealed import seal_folder

pytest.importorskip("model_signing", reason="the extra `signing` is not installed")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


def keys(folder: Path, private: object, password: bytes | None = None) -> tuple[Path, Path]:
    made: object = private
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    secret = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)  # type: ignore[attr-defined]
    public = made.public_key().public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    paths = folder / "key.pem", folder / "public.pem"
    folder.mkdir(exist_ok=True)
    for path, content in zip(paths, (secret, public), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return seal_folder(tmp_path / "out" / "cpu-int8")


KINDS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_signed_is_accepted_by_the_key_it_was_signed_with_alone(
    kind: str, package: Path, tmp_path: Path
) -> None:
    private, public = keys(tmp_path / "mine", KINDS[kind]())
    assert read_signing_key(private).sign(package) == package / SIGNATURE
    assert len(check_signature(package, public)) == 64
    assert check_files(package, read_manifest(package)) == 2  # the manifest knows the signature's name, not its bytes
    _, other = keys(tmp_path / "theirs", KINDS[kind]())
    with pytest.raises(PackageDamaged, match="signed with another key"):
        check_signature(package, other)
    package.rename(tmp_path / "elsewhere")
    check_signature(tmp_path / "elsewhere", public)


def test_the_librarys_own_verifier_accepts_what_it_has_keys_for(package: Path, tmp_path: Path) -> None:
    from model_signing import hashing, verifying

    private, public = keys(tmp_path / "mine", KINDS["p256"]())
    read_signing_key(private).sign(package)
    config = hashing.Config().use_file_serialization().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    made = verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(config)
    made.verify(package, package / SIGNATURE)
    (package / "model.onnx").write_bytes(b"9876543210")
    with pytest.raises(ValueError, match="mismatch"):
        made.verify(package, package / SIGNATURE)


def test_the_library_takes_no_ed25519_key(tmp_path: Path) -> None:
    """The day this fails, its own signer can take the place of ours."""
    from model_signing import signing

    private, _ = keys(tmp_path / "mine", KINDS["ed25519"]())
    with pytest.raises((ValueError, AttributeError)):
        signing.Config().use_elliptic_key_signer(private_key=private)


@pytest.fixture
def signed(package: Path, tmp_path: Path) -> tuple[Path, Path]:
    private, public = keys(tmp_path / "mine", KINDS["ed25519"]())
    read_signing_key(private).sign(package)
    return package, public


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.onnx", "sub/notes.txt", MANIFEST])
def test_a_changed_byte_is_refused(name: str, signed: tuple[Path, Path]) -> None:
    flip(signed[0] / name)
    with pytest.raises(PackageDamaged, match=f"{name} has changed since it was signed"):
        check_signature(*signed)


def test_every_byte_of_the_signature_counts_or_changes_nothing(signed: tuple[Path, Path]) -> None:
    """Somebody may write the envelope otherwise, but never with another statement in it."""
    path = signed[0] / SIGNATURE
    table = json.loads(path.read_text())
    statement, signature = table["dsseEnvelope"]["payload"], table["dsseEnvelope"]["signatures"][0]["sig"]
    for place in range(0, len(statement), 37):
        other = statement[:place] + ("A" if statement[place] != "A" else "B") + statement[place + 1 :]
        path.write_text(path.read_text().replace(statement, other))
        with pytest.raises(PackageDamaged):
            check_signature(*signed)
        path.write_text(path.read_text().replace(other, statement))
    path.write_text(path.read_text().replace(signature, signature[::-1]))
    with pytest.raises(PackageDamaged):
        check_signature(*signed)


@pytest.mark.parametrize("name", ["new.txt", "sub/new.txt", ".git/config", ".gitignore", "sub/model.sig"])
def test_an_added_file_is_refused_whatever_its_name(name: str, signed: tuple[Path, Path]) -> None:
    (signed[0] / name).parent.mkdir(exist_ok=True)
    (signed[0] / name).write_text("x")
    with pytest.raises(PackageDamaged, match=f"{name} was added after signing"):
        check_signature(*signed)


def test_a_removed_file_is_refused_and_so_is_a_link_to_its_equal(signed: tuple[Path, Path], tmp_path: Path) -> None:
    file = signed[0] / "sub" / "notes.txt"
    file.rename(tmp_path / "notes.txt")
    with pytest.raises(PackageDamaged, match=r"sub/notes.txt is missing"):
        check_signature(*signed)
    file.symlink_to(tmp_path / "notes.txt")
    with pytest.raises(PackageDamaged, match=r"sub/notes.txt is a link"):
        check_signature(*signed)
    file.unlink()
    os.mkfifo(file)
    assert stat.S_ISFIFO(file.stat().st_mode)
    with pytest.raises(PackageDamaged, match=r"sub/notes.txt is a link or no file at all"):
        check_signature(*signed)


def test_a_manifest_made_fit_for_a_change_does_not_help(signed: tuple[Path, Path]) -> None:
    folder = signed[0]
    flip(folder / "model.onnx")
    (folder / SIGNATURE).rename(folder.parent / "kept")
    (folder / MANIFEST).unlink()
    seal_folder(folder, write=False)
    (folder.parent / "kept").rename(folder / SIGNATURE)
    assert check_files(folder, read_manifest(folder)) == 2  # hashes alone are satisfied
    with pytest.raises(PackageDamaged, match="has changed since it was signed"):
        check_signature(*signed)


def test_a_signature_of_other_files_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    other = seal_folder(tmp_path / "other")
    (other / "model.onnx").write_bytes(b"another one")
    (signed[0] / SIGNATURE).rename(other / SIGNATURE)
    with pytest.raises(PackageDamaged, match=r"model.onnx has changed"):
        check_signature(other, signed[1])


def test_no_signature_is_no_pass(package: Path, tmp_path: Path) -> None:
    _, public = keys(tmp_path / "mine", KINDS["ed25519"]())
    assert not is_signed(package)
    with pytest.raises(PackageDamaged, match="not signed"):
        check_signature(package, public)
    for content in ("", "{}", "[]", "\x00", '{"mediaType": "x"}'):
        (package / SIGNATURE).write_text(content)
        with pytest.raises(PackageDamaged):
            check_signature(package, public)


def test_what_has_changed_since_it_was_sealed_is_not_signed(package: Path, tmp_path: Path) -> None:
    private, _ = keys(tmp_path / "mine", KINDS["ed25519"]())
    flip(package / "model.onnx")
    with pytest.raises(PackageDamaged, match="has changed"):
        read_signing_key(private).sign(package)
    assert not is_signed(package)


def test_the_same_key_and_files_give_the_same_bytes_in_another_process(package: Path, tmp_path: Path) -> None:
    private, _ = keys(tmp_path / "mine", KINDS["ed25519"]())
    read_signing_key(private).sign(package)
    first = (package / SIGNATURE).read_bytes()
    code = "import sys; from converter import sign; sign(sys.argv[1], sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(package), str(private)], check=True, cwd=Path(__file__).parents[2])
    assert (package / SIGNATURE).read_bytes() == first


def test_a_signed_package_is_still_an_output_that_may_be_replaced(package: Path, tmp_path: Path) -> None:
    private, _ = keys(tmp_path / "mine", KINDS["ed25519"]())
    write_marker(package.parent)
    read_signing_key(private).sign(package)
    assert not inspect_place(package.parent).foreign
    (package / "stray").write_text("x")
    assert inspect_place(package.parent).foreign == ("cpu-int8/stray",)


def test_keys_that_cannot_be_used_are_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys(tmp_path / "mine", KINDS["ed25519"](), b"secret")
    with pytest.raises(UsageError, match="encrypted") as caught:
        read_signing_key(private)
    assert PASSWORD in caught.value.hint
    monkeypatch.setenv(PASSWORD, "secret")
    assert read_signing_key(private)
    monkeypatch.setenv(PASSWORD, "wrong")
    with pytest.raises(UsageError):
        read_signing_key(private)
    for wrong in (public, tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            read_signing_key(wrong)
    large, _ = keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(UsageError, match="not supported"):
        read_signing_key(large)


def test_an_honest_manifest_signed_by_somebody_else_is_theirs(package: Path, tmp_path: Path) -> None:
    _, mine = keys(tmp_path / "mine", KINDS["ed25519"]())
    theirs, _ = keys(tmp_path / "theirs", KINDS["ed25519"]())
    table = read_manifest(package) | {"task": "fill-mask"}
    table[DIGEST] = _digest(table)
    (package / MANIFEST).write_text(json_text(table), encoding="utf-8")
    read_signing_key(theirs).sign(package)
    with pytest.raises(PackageDamaged, match="another key"):
        check_signature(package, mine)
