"""Splines over scaled moduli on disk: safetensors with JSON metadata, a kind, a version and a checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from micro.gamut.spline import TricubicSpline
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path


def save_spline(
    path: PathLike,
    spline: TricubicSpline,
    *,
    kind: str,
    version: int,
    source: str,
    attrs: dict[str, Any],
    **more: str,
) -> None:
    """Write a spline and where it comes from, atomically; ``more`` are entries of the kind's own.

    Parameters
    ----------
    path : path
    spline : TricubicSpline
    kind : str
        What the file holds.
    version : int
        Of its format.
    source : str
        Digest of the cells it was learned from.
    attrs : dict
        Plain values.
    **more : str
    """
    metadata = {
        "format": kind,
        "version": str(version),
        "source": source,
        "spacing": repr(spline.spacing),
        "origin": json.dumps(spline.origin.tolist()),
        "attrs": json.dumps(attrs, allow_nan=False),
        "digest": _digest(spline.coefficients),
        **more,
    }
    with atomic_path(path) as temporary:
        # Bytes rather than save_file, which would make the file private to its owner.
        temporary.write_bytes(save({"coefficients": np.ascontiguousarray(spline.coefficients)}, metadata))


def load_spline(
    path: PathLike, *, kind: str, version: int
) -> tuple[TricubicSpline, str, dict[str, Any], dict[str, str]]:
    """Read what :func:`save_spline` wrote: the spline, its source, attributes and all metadata.

    Raises
    ------
    InputError
        If the file is missing, of another kind or version, or damaged.
    """
    if not Path(path).is_file():
        raise InputError("there is no such file", file=path)
    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            coefficients = stored.get_tensor("coefficients")
        _check(metadata, kind, version, path)
        origin = np.array(json.loads(metadata["origin"]), dtype=np.float64)
        spline = TricubicSpline(coefficients, origin, float(metadata["spacing"]))
        source, attrs, digest = metadata["source"], json.loads(metadata["attrs"]), metadata["digest"]
    except InputError:
        raise
    except Exception as error:  # whatever safetensors or json make of a damaged file
        raise InputError(f"not a readable {kind}: {type(error).__name__}: {error}", file=path) from error
    if coefficients.ndim != 3 or coefficients.dtype != np.float16 or _digest(coefficients) != digest:
        raise InputError("the content does not match its checksum: the file is damaged", file=path)
    return spline, source, attrs, metadata


def _check(metadata: dict[str, str], kind: str, version: int, path: PathLike) -> None:
    if metadata.get("format") != kind:
        raise InputError(f"not a {kind}", file=path, key="format", value=metadata.get("format"))
    if metadata.get("version") != str(version):
        raise InputError(
            f"only version {version} is known", file=path, key="version", value=metadata.get("version")
        )


def _digest(coefficients: NDArray[np.float16]) -> str:
    return hashlib.sha256(str(coefficients.shape).encode() + coefficients.tobytes()).hexdigest()
