"""The version of this distribution, which holds both packages."""

from __future__ import annotations

import importlib.metadata


def own_version() -> str | None:
    """The installed version, or None when the code runs without being installed."""
    names = importlib.metadata.packages_distributions().get(__package__, [])
    return importlib.metadata.version(names[0]) if names else None
