"""The case file's settings: how to solve, optimise, fill and export. All have defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from multiscale.case.messages import finding
from multiscale.case.shapes import Count, Positive, Table, Text

Kind = Literal["mean_square", "sum", "worst"]

Index = Annotated[int, Field(strict=True, ge=0)]
NonNegative = Annotated[float, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Tolerance = Annotated[float, Field(strict=True, gt=0, lt=1)]


def _auto_or_count(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be 'auto' or a whole number of at least 1")


AutoCount = Annotated[
    Any,
    BeforeValidator(_auto_or_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]


class FilterSettings(Table):
    """Cone filter on the design fields: makes the design robust against the mesh."""

    radius: NonNegative = 2.0
    """Radius of the cone, in elements; up to 1 means no filter."""


class GamutSettings(Table):
    """The reachable tensors, phi(C) >= 0."""

    source: Text = "dataset"
    """"dataset" or "library": what the packaged data set's or library's cells can reach (the data set's is
    wider); or a gamut file, relative to the case file."""
    margin: NonNegative = 0.0
    """Distance kept from the boundary, phi >= margin, in phi's units (the solid's K, mu' and G each = 1)."""


class DesignSettings(Table):
    """Where the design comes from, if not from the optimiser."""

    source: Text | None = None
    """A tensor field made elsewhere, relative to the case file: arrays of the grid's shape (.npz), or the
    cells of a mesh (.vti, .vtu, .vtk), looked up at the elements' centres. It is projected onto the gamut and
    filled. The optimiser designs if left out."""
    arrays: tuple[Text, Text, Text] = ("C11", "C12", "C44")
    """Names of the arrays of the three constants."""
    unit: Literal["E_s", "MPa", "Pa"] = "E_s"
    """Unit of the tensors."""
    density: Text | None = None
    """Name of an array of densities, above 0 and at most 1, to take in the place of tensors."""
    exponent: Positive = 3.0
    """With density: p of the isotropic law E = density^p E_s (SIMP)."""
    scale: Positive | None = None
    """Elements per unit of the mesh's lengths; of a mesh in metres if left out."""


class OptimizerSettings(Table):
    """How the design is found."""

    algorithm: Literal["auto", "lbfgs", "mma", "ccsaq"] = "auto"
    """"lbfgs": L-BFGS-B, quickest but without a mass limit; "mma", "ccsaq": nlopt's, with one; "auto": "mma"
    if there is a mass limit, else "lbfgs"."""
    uniform_iterations: Index = 25
    """Iterations of the first stage, in which all design elements share one tensor; 0 skips it."""
    stages: Count = 1
    """Stages that move every element; the design is projected onto the gamut at the end of each."""
    iterations: Count = 100
    """Iterations in such a stage, at most."""
    tolerance: Tolerance = 1e-6
    """A stage ends when the squared objective changes by less than this in an iteration, relative."""
    slack: NonNegative = 0.05
    """How far tensors may leave the gamut before their projection, in phi's units."""
    mesh: Literal[1, 2, 4] = 1
    """Elements an edge of a cell, one tensor a cell, of the mesh that the first design is found on. 2 take 8
    times the memory and time, 4 take 64 times."""
    fine_mesh: Literal[1, 2, 4] = 1
    """The design is corrected by a mesh of this many elements an edge of a cell, one tensor a cell, and goes
    on; 1 for none. A mesh of 4 takes 64 times the memory of the design's own."""
    fine_mesh_rounds: Count = 3
    """How often at most; it ends earlier where the finer mesh shows no gain."""

    def _check(self) -> None:
        if self.mesh > 1 and self.fine_mesh > 1:
            raise finding("fine_mesh", "corrects designs of one element a cell: leave out this or mesh")


class SolverSettings(Table):
    """The linear solver."""

    preconditioner: Literal["gmg", "gamg"] = "gmg"
    """"gmg": geometric multigrid; "gamg": PETSc's algebraic multigrid."""
    levels: AutoCount = "auto"
    """Levels of the geometric multigrid, or "auto"."""
    rtol_forward: Tolerance = 1e-6
    """Relative residual of the solves during the optimisation."""
    rtol_adjoint: Tolerance = 1e-4
    """Relative residual of the adjoint solves."""
    rtol_evaluate: Tolerance = 1e-8
    """Relative residual of the solves whose results are reported."""
    max_iterations: Count = 500
    """Iterations after which a solve counts as failed."""


GAMUT_SOURCES = ("library", "dataset")
"""Gamuts that come with the program."""

PACKAGED_POISSON = 0.3
"""Poisson's ratio of the base material for which the packaged cells are homogenised."""

PACKAGED_VOXELS = 32
"""Voxels along the octants' edge of the packaged cells."""

FILL_SOURCES = ("dataset", "library", "generator", "dataset+generator")
"""Sources of cells that come with the program."""


class FillSettings(Table):
    """How tensors become cells."""

    source: Text = "dataset"
    """"dataset" or "library" for the packaged cells, "generator" for the packaged generator,
    "dataset+generator" for cells of the data set and generated ones where these do not fit their neighbours;
    or a file, relative to the case file: a cell set (.zarr, .zarr.zip), or a generator's weights
    (.safetensors)."""
    tolerance: Positive = 0.01
    """Tensor error (the paper's Eq. 4, a fraction) within which design tensors share one group."""
    relative_tolerance: Positive = 0.05
    """Relative error ||C - C_wanted|| / ||C_wanted|| (Frobenius) within which they do so, for soft cells."""
    candidates: Count = 48
    """Cells of a set considered for each group."""
    generated: Count = 2
    """Cells generated for each group, where the generator is the source."""
    seed: Index = 0
    """Seed of what is drawn at random: generated cells, and errors that probe the objective."""
    min_contact: Fraction = 0.02
    """Smallest solid contact of neighbouring cells, as a fraction of the face's area."""
    overlap: NonNegative = 0.05
    """Tensor error of one element that an interface is worth whose patterns overlap by half."""
    hold: NonNegative = 0.0
    """Tensor error of one element that an interface is worth where a piece hangs by half of its section; 0:
    the overlap of whole faces alone counts."""
    cavities: Literal["avoid", "allow"] = "avoid"
    """Whether cells that enclose void, which keeps resin or powder, are taken only if nothing else fits."""
    polish: Index = 2
    """Passes that choose again around the lattice as built, after the first choice."""


class FullScaleSettings(Table):
    """The lattice solved voxel by voxel, and the design corrected by that."""

    voxels_per_cell: Annotated[int, Field(strict=True, ge=2, multiple_of=2)] | None = None
    """Voxels along a cell's edge, a divisor of the cells' own (64 of the packaged ones); nothing is solved at
    full scale if left out. 8 are quick, 16 halve their error."""
    rounds: Index = 0
    """How often at most the design is corrected by the lattice's full-scale solution, filled and solved
    again; 0 only measures the lattice."""
    iterations: Count = 60
    """Iterations of the optimiser in a round, at most; it ends when a dozen together gain less than 1 %."""
    least_gain: Fraction = 0.05
    """A round that makes the full-scale value smaller by less than this share is the last."""
    max_memory_gb: Positive | None = None
    """Memory that a solve may take, GB; nine tenths of what is free if left out."""

    def _check(self) -> None:
        if self.rounds and self.voxels_per_cell is None:
            raise finding("voxels_per_cell", "rounds need it: 8 are quick, 16 halve their error")


class ExportSettings(Table):
    """What a run writes besides fields and figures."""

    stl_box: tuple[tuple[Index, Index, Index], tuple[Index, Index, Index]] | None = None
    """Elements [[x0, y0, z0], [x1, y1, z1]] (x0 <= i < x1, ...) to write as STL; none if left out."""
    voxels: Count | None = None
    """Voxels along an octant's (half a cell's) edge in exports; the cells' own if left out."""

    def _check(self) -> None:
        if self.stl_box is not None:
            low, high = self.stl_box
            if any(a >= b for a, b in zip(low, high, strict=True)):
                raise finding("stl_box", "must have low < high along each axis", [list(low), list(high)])
