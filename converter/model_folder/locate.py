"""A folder or Hub id to the local folder of a model."""

import errno
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from converter.errors import SourceError, UsageError
from converter.jsonfile import read_json
from converter.model_folder.causes import refusal

MODULE_ROW = ("idx", "name", "path", "type", "kwargs")


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the local folder, and the commit where it came from the Hub."""
    path = Path(model).expanduser()
    if _is_dir(path):
        if revision is not None:
            raise UsageError("--revision is for Hub ids; this is a local folder", where=model)
        return path.resolve(), None
    check_local(model)
    return _from_hub(model, revision)


def check_local(model: str) -> None:
    """Refuse what can only be a folder of this machine and is none.

    Raises:
        SourceError: it is absent, or a file.

    """
    path = Path(model).expanduser()
    looks_local = path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1
    there = _is_dir(path)  # before it is looked for as a file: no name is too long then
    if not there and (looks_local or path.is_file()):
        detail = "is a file, wanted the model's folder" if path.is_file() else "no such folder"
        raise SourceError(detail, where=model, hint="give a folder with config.json and model.safetensors, or a Hub id")


def _is_dir(path: Path) -> bool:
    """Tell whether a folder is there.

    Raises:
        SourceError: no folder can have that name.

    """
    try:
        return path.is_dir()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        detail = f"no such folder ({error.strerror})"
        raise SourceError(detail, where=f"{str(path)[:60]}…", hint="give a folder, or a Hub id") from None


def _from_hub(model: str, revision: str | None) -> tuple[Path, str | None]:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                model,
                revision=revision,
                ignore_patterns=["*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.py", "openvino*"],
            )
        )
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise SourceError(
            "no such folder, and the Hub cannot be reached for an id of that name",
            where=model,
            hint="check the path; or go online, or unset HF_HUB_OFFLINE",
        ) from None
    except errors.HFValidationError:
        raise SourceError("no such folder, and not a Hub id", where=model) from None
    except errors.RevisionNotFoundError:
        raise SourceError(f"the Hub model has no revision {revision!r}", where=model) from None
    except errors.GatedRepoError:
        raise SourceError("the Hub model is gated", where=model, hint="accept its terms and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise SourceError(
            "no such folder, and no such model on the Hub", where=model, hint="private models need HF_TOKEN"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise SourceError(
            f"the Hub cannot be reached ({type(error).__name__})",
            where=model,
            hint="check the network, or give a local folder",
        ) from None
    return folder, folder.name


@dataclass(frozen=True)
class SentenceModule:
    """One module of a sentence-transformers folder."""

    kind: str
    """The class without its package: `Transformer`, `Pooling`, `Dense`, `Normalize`."""
    path: str
    """Its folder, relative to the model's; empty for the model's own."""
    type: str = ""
    """The class with its package."""
    name: str = ""
    kwargs: tuple[str, ...] = ()
    """Arguments that a caller of the model hands to this module."""


def sentence_modules(folder: Path) -> tuple[SentenceModule, ...]:
    """Read `modules.json`; empty where the folder is no sentence-transformers model.

    Raises:
        SourceError: the listing is damaged, or names a folder outside the model: what is read there is copied into
            packages, and those are shared.

    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return ()
    table = read_json(listing)
    if not isinstance(table, list) or not table:
        raise SourceError("modules.json lists no module", where=str(listing))
    return tuple(_sentence_module(row, listing, place) for place, row in enumerate(table))


def _sentence_module(row: Any, listing: Path, place: int) -> SentenceModule:
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("type", "path")):
        raise SourceError("a module needs type and path", where=str(listing), hint="the file is damaged")
    path = PurePosixPath(row["path"])
    if path.is_absolute() or ".." in path.parts or "\\" in row["path"] or ":" in row["path"]:
        raise SourceError(f"a module is outside the model's folder: {row['path']!r}", where=str(listing))
    for key in row:
        if key not in MODULE_ROW:
            raise refusal("module-row", listing, {"key": key})
    kwargs = row.get("kwargs") or []
    named = tuple(map(str, kwargs)) if isinstance(kwargs, list | dict) else (str(kwargs),)
    return SentenceModule(row["type"].rsplit(".", 1)[-1], row["path"], row["type"], str(row.get("name", place)), named)


def encoder_folder_of(folder: Path) -> Path:
    """Return the transformers folder: of a sentence-transformers model it is the first module's."""
    modules = sentence_modules(folder)
    return folder / modules[0].path if modules else folder
