"""Links in a model's folder: followed inside it, or from a Hub cache's snapshot to its own blobs, and nowhere else."""

import os
from pathlib import Path

from converter.model_folder.causes import refusal

SNAPSHOTS, BLOBS = "snapshots", "blobs"


def check_links(folder: Path) -> None:
    """Refuse links that lead out of `folder`: what is read there is copied into packages, and those are shared.

    In a Hub cache the files of a model are links: `MODEL/snapshots/REVISION/FILE` to `MODEL/blobs/HASH`.

    Raises:
        SourceError: names the link and where it leads.

    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == SNAPSHOTS:
        # Not resolved: where `blobs` is a link itself, what lies in it is not this cache's own.
        allowed.append(root.parent.parent / BLOBS)
    for link in _links(root):
        try:
            target = link.resolve()
        except (OSError, RuntimeError):  # it leads to itself
            target = None
        name = link.relative_to(root).as_posix()
        if target is None or not any(target.is_relative_to(place) for place in allowed):
            leads = str(target or "itself").encode("unicode_escape").decode()
            raise refusal("link-outside", root, {"file": name, "target": leads})


def _links(root: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(root):  # it does not enter folders that are links
        found += [path for name in (*folders, *files) if (path := Path(place, name)).is_symlink()]
    return sorted(found)
