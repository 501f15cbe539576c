"""A set of cells with their tensors: library, data set, candidates, a lattice's unique cells.

On disk a Zarr 3 group (a directory, or one file when the name ends in ``.zip``):

======== ================= ==================================================================
array    shape, type       content
======== ================= ==================================================================
packed   (m, bytes) uint8  octants, bits of the fundamental domain (:func:`micro.cell.chamber.pack`)
C        (m, 3) float64    C11, C12, C44 in units of E_s
volume   (m,) float64      solid volume fraction
family   (m,) uint16       index into the attribute ``families``
params   (m, p) float64    parameters of the family, NaN beyond its own number
======== ================= ==================================================================

Attributes: ``format`` and ``version``, the resolution ``n``, the base material's ``poisson``,
``families``, ``digest`` (SHA-256 of the content, checked on reading) and the set's own ``attrs``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micro.cell import octant as cell
from micro.cell.chamber import pack, packed_bytes, unpack, unpack_face
from micro.cell.tensor import POISSON
from micro.runtime.arrays import Bools, Bytes, Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path

if TYPE_CHECKING:  # loading it takes half a second, which only reading and writing should wait for
    import zarr

FORMAT = "cubic-cell-set"
VERSION = 1
_ARRAYS = ("packed", "C", "volume", "family", "params")


@dataclass(frozen=True, eq=False)
class CellSet:
    """Cubic cells of one resolution with what is known of them.

    Attributes
    ----------
    n : int
        Voxels along an octant's edge (the cell has 2n).
    packed : uint8 array, shape (m, bytes)
        Octants as bits, see :func:`micro.cell.chamber.pack`.
    C : float64 array, shape (m, 3)
        Homogenised C11, C12, C44 in units of E_s.
    volume : float64 array, shape (m,)
        Solid volume fraction.
    family : str array, shape (m,)
        Where each cell comes from (:mod:`micro.families.families`, or a generator's name).
    params : float64 array, shape (m, p)
        Parameters of the family; NaN beyond its own number.
    attrs : dict
        Provenance, anything that JSON holds.
    poisson : float
        Poisson's ratio of the base material for which ``C`` holds.
    """

    n: int
    packed: Bytes
    C: Floats
    volume: Floats
    family: NDArray[np.str_]
    params: Floats
    attrs: dict[str, Any] = field(default_factory=dict)
    poisson: float = POISSON

    def __post_init__(self) -> None:
        m = len(self.packed)
        expected = {"packed": (m, packed_bytes(self.n)), "C": (m, 3), "volume": (m,), "family": (m,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise InputError(
                    f"an array of shape {shape} is needed", key=name, value=getattr(self, name).shape
                )
        if self.params.ndim != 2 or len(self.params) != m:
            raise InputError(f"an array of shape ({m}, p) is needed", key="params", value=self.params.shape)
        if self.packed.dtype != np.uint8:
            raise InputError("packed octants are uint8", key="packed", value=self.packed.dtype.name)
        if not (np.isfinite(self.C).all() and np.isfinite(self.volume).all()):
            raise InputError("tensors and volumes must be finite numbers", key="C")
        if not -1 < self.poisson < 0.5:
            raise InputError("must lie between -1 and 0.5", key="poisson", value=self.poisson)

    def require_poisson(self, poisson: float, file: PathLike | None = None) -> None:
        """Refuse a base material that the tensors do not hold for.

        Raises
        ------
        InputError
            If its Poisson's ratio is another than the set's.
        """
        require_poisson("cells", self.poisson, poisson, file)

    @classmethod
    def from_octants(
        cls,
        octants: ArrayLike,
        C: ArrayLike,
        *,
        family: str | Sequence[str] = "unknown",
        params: ArrayLike | None = None,
        attrs: dict[str, Any] | None = None,
        poisson: float = POISSON,
    ) -> CellSet:
        """Pack octants (m, n, n, n), bool and symmetric, with their tensors (m, 3).

        Parameters
        ----------
        octants : bool array, shape (m, n, n, n)
            Invariant under permutation of the axes.
        C : array, shape (m, 3)
            In units of E_s.
        family : str or sequence of str
            One name for all, or one a cell.
        params : array, shape (m, p), optional
        attrs : dict, optional
        poisson : float
            Ratio of the base material that the tensors were homogenised with.
        """
        solid = np.asarray(octants, dtype=bool)
        packed = pack(solid)
        m = len(solid)
        names = [family] * m if isinstance(family, str) else list(family)
        return cls(
            n=solid.shape[-1],
            packed=packed,
            C=np.array(C, dtype=np.float64).reshape(m, 3),
            volume=solid.mean(axis=(1, 2, 3)),
            family=np.array(names, dtype=np.str_),
            params=np.empty((m, 0)) if params is None else np.array(params, dtype=np.float64),
            attrs=dict(attrs or {}),
            poisson=poisson,
        )

    def __len__(self) -> int:
        return len(self.packed)

    def octants(self, index: ArrayLike | slice | None = None) -> Bools:
        """Octants as bool (m, n, n, n), or (n, n, n) for a single integer; all of them by default."""
        if isinstance(index, int | np.integer):
            return unpack(self.packed[int(index)][None], self.n)[0]
        return unpack(self.packed[self._rows(index)], self.n)

    def faces(self, index: ArrayLike | slice | None = None) -> Bools:
        """Outer faces as bool (m, n, n) (a single integer: (n, n)); index 0 of each octant."""
        if isinstance(index, int | np.integer):
            return cell.face(self.octants(index))
        rows = self._rows(index)
        return unpack_face(self.packed[rows], self.n)

    def subset(self, index: ArrayLike | slice) -> CellSet:
        """The cells at ``index`` (integers, a mask or a slice), in that order, repeats allowed."""
        rows = self._rows(index)
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, **arrays)

    def read_only(self) -> CellSet:
        """The set itself, its arrays protected from being written to: one that several share."""
        for name in _ARRAYS:
            getattr(self, name).setflags(write=False)
        return self

    def without_parameters(self) -> CellSet:
        """The cells alone, so that sets of different origin can be joined."""
        return replace(self, params=np.empty((len(self), 0)), attrs={})

    @staticmethod
    def concat(sets: Sequence[CellSet], attrs: dict[str, Any] | None = None) -> CellSet:
        """One set after another; all of one resolution. ``attrs`` are the first set's unless given.

        Raises
        ------
        InputError
            If there is nothing to join, or the sets differ in resolution or base material.
        """
        if not sets:
            raise InputError("there is nothing to concatenate")
        if len({s.n for s in sets}) != 1:
            raise InputError(
                "sets of different resolution cannot be joined", value=sorted({s.n for s in sets})
            )
        for other in sets[1:]:
            other.require_poisson(sets[0].poisson)
        width = max(s.params.shape[1] for s in sets)
        padded = [
            np.pad(s.params, ((0, 0), (0, width - s.params.shape[1])), constant_values=np.nan) for s in sets
        ]
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(s, name) for s in sets]) for name in _ARRAYS if name != "params"
        }
        attrs = dict(sets[0].attrs if attrs is None else attrs)
        return replace(sets[0], **arrays, params=np.concatenate(padded), attrs=attrs)

    def digest(self) -> str:
        """SHA-256 of the cells (attributes left out), as hex: the set's identity."""
        sha = hashlib.sha256(f"{FORMAT} {self.n} {len(self)}".encode())
        for name in ("packed", "C", "volume", "params"):
            sha.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        sha.update("\n".join(self.family.tolist()).encode())
        return sha.hexdigest()

    def save(self, path: PathLike) -> None:
        """Write as a Zarr group, atomically: a directory, or one file when ``path`` ends in ``.zip``."""
        families, codes = np.unique(self.family, return_inverse=True)
        attributes = {
            "format": FORMAT,
            "version": VERSION,
            "n": int(self.n),
            "count": len(self),
            "poisson": float(self.poisson),
            "families": families.tolist(),
            "digest": self.digest(),
            "attrs": json.loads(json.dumps(self.attrs)),
        }
        arrays: dict[str, NDArray] = {
            "packed": self.packed,
            "C": self.C,
            "volume": self.volume,
            "family": codes.astype(np.uint16),
            "params": self.params,
        }
        import zarr
        from zarr.storage import LocalStore, ZipStore

        with atomic_path(path) as temporary:
            zipped = temporary.suffix == ".zip"
            store = ZipStore(temporary, mode="w") if zipped else LocalStore(temporary)
            try:
                group = zarr.create_group(store, zarr_format=3, attributes=attributes)
                for name, data in arrays.items():
                    _write(group, name, data)
            finally:
                store.close()

    @staticmethod
    def load(path: PathLike) -> CellSet:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If there is no such file, it is no cell set of a known version, or its content is damaged.
        """
        source = Path(path)
        if not source.exists():
            raise InputError("there is no such cell set", file=path)
        try:
            attributes, arrays = _read(source)
        except InputError:
            raise
        except Exception as error:  # whatever zarr, the codecs or zipfile make of a damaged file
            raise InputError(
                f"not a readable cell set: {type(error).__name__}: {error}", file=path
            ) from error
        return _checked(attributes, arrays, source)

    def _rows(self, index: ArrayLike | slice | None) -> Any:
        if index is None:
            return slice(None)
        return index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))


def _write(group: zarr.Group, name: str, data: NDArray) -> None:
    """One array, byte-shuffled and compressed, in chunks of whole cells of a few megabytes."""
    from zarr.codecs import BloscCodec, BloscShuffle

    width = data.itemsize * int(np.prod(data.shape[1:], dtype=np.int64))
    rows = max(1, min(len(data), 2**22 // max(width, 1)))
    # Bits have no bytes to shuffle.
    shuffle = BloscShuffle.noshuffle if name == "packed" else BloscShuffle.shuffle
    codec = BloscCodec(cname="zstd", clevel=9, shuffle=shuffle, typesize=data.itemsize)
    if data.size == 0:  # a set without cells or without parameters: its shape says all
        group.create_array(
            name, shape=data.shape, chunks=tuple(max(1, s) for s in data.shape), dtype=data.dtype
        )
        return
    group.create_array(
        name, data=np.ascontiguousarray(data), chunks=(rows, *data.shape[1:]), compressors=[codec]
    )


def _read(source: Path) -> tuple[dict[str, Any], dict[str, NDArray]]:
    import zarr
    from zarr.storage import LocalStore, ZipStore

    if source.is_file() and not zipfile.is_zipfile(source):
        raise InputError("not a cell set: neither a zip file nor a directory", file=source)
    store = LocalStore(source, read_only=True) if source.is_dir() else ZipStore(source, mode="r")
    try:
        group = zarr.open_group(store, mode="r")
        attributes = dict(group.attrs)
        _check_header(attributes, source)
        return attributes, {name: _array(group, name) for name in _ARRAYS}
    finally:
        store.close()


def _array(group: zarr.Group, name: str) -> NDArray:
    import zarr

    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is not an array")
    return np.asarray(array[...])


def _check_header(attributes: dict[str, Any], source: Path) -> None:
    if attributes.get("format") != FORMAT:
        raise InputError(f"not a {FORMAT}", file=source, key="format", value=attributes.get("format"))
    if attributes.get("version") != VERSION:
        raise InputError(
            f"only version {VERSION} is known", file=source, key="version", value=attributes.get("version")
        )
    n = attributes.get("n")
    if not isinstance(n, int) or n < 1:
        raise InputError("the resolution must be a positive integer", file=source, key="n", value=n)


def require_poisson(what: str, own: float, wanted: float, file: PathLike | None = None) -> None:
    """Refuse a base material that something made by homogenisation does not hold for.

    Parameters
    ----------
    what : str
        What was made, in the plural.
    own, wanted : float
        Poisson's ratios it was made with and is used with.
    file : path, optional
        Where it came from.

    Raises
    ------
    InputError
        If the two Poisson's ratios differ.
    """
    if abs(own - wanted) > 1e-9:
        raise InputError(
            f"{what} of a base material with Poisson's ratio {own:g} do not hold for {wanted:g}",
            file=file,
            key="poisson",
            value=own,
        )


def _poisson(attributes: dict[str, Any]) -> float:
    """Of a set's header; files of 0.1.0 have it among the set's own attributes, or were made for 0.3."""
    own = attributes.get("attrs", {})
    settings = own.get("settings", {})
    older = own.get("poisson", settings.get("nu", POISSON) if isinstance(settings, dict) else POISSON)
    return float(attributes.get("poisson", older))


def _checked(attributes: dict[str, Any], arrays: dict[str, NDArray], source: Path) -> CellSet:
    families = np.array(attributes.get("families", []), dtype=np.str_)
    codes = arrays["family"]
    if codes.size and (len(families) == 0 or int(codes.max()) >= len(families)):
        raise InputError("a family's index is out of range", file=source, key="families")
    try:
        cells = CellSet(
            n=attributes["n"],
            packed=arrays["packed"],
            C=arrays["C"].astype(np.float64),
            volume=arrays["volume"].astype(np.float64),
            family=families[codes] if codes.size else np.empty(0, dtype=np.str_),
            params=arrays["params"].astype(np.float64),
            attrs=dict(attributes.get("attrs", {})),
            poisson=_poisson(attributes),
        )
    except InputError as error:
        raise InputError(error.reason, file=source, key=error.key, value=error.value) from error
    if cells.digest() != attributes.get("digest"):
        raise InputError("the content does not match its checksum: the file is damaged", file=source)
    return cells
