"""Where things that outlive a command are kept: ADPA_HOME."""

import os
from pathlib import Path

__all__ = ["adpa_home"]


def adpa_home() -> Path:
    """The folder named by ADPA_HOME, by default `adpa` in the user's cache folder. It need not exist yet."""
    if named := os.environ.get("ADPA_HOME"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adpa"
