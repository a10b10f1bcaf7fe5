"""Where the cache is."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return `$PLM_EXPORT_CACHE`, else `plm-export` in the user's cache folder. It may be deleted at any time."""
    own = os.environ.get("PLM_EXPORT_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "plm-export"
