"""Linear elasticity on a voxel grid: hex8, one cubic tensor per element, PETSc.

Weak form: find u with ``u = u_D`` on the constrained degrees of freedom and ::

    sum_e v_e^T (C11_e K11 + C12_e K12 + C44_e K44) u_e = v^T f    for all v

with the three constant matrices of :func:`micro.voxels.hexahedron.element_matrices`,
so that element matrices are one ``(elements, 3) @ (3, 576)`` product and every
sensitivity is ``lambda_e^T K_i u_e``.

The solver is CG with the preconditioners of :mod:`multiscale.solve.preconditioner`.
With multigrid products are made element by element (:mod:`multiscale.solve.products`);
a matrix is assembled for smoothed aggregation, and for a direct solve of a small grid.

Void elements (tensor zero) are removed exactly: they are not assembled, and
nodes without any solid element are constrained to zero.

Grids are padded with void elements at their high ends to a multiple of the
coarsening factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.cell.tensor import is_definite
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import NotConverged
from micro.voxels.corners import nodes_of
from micro.voxels.hexahedron import element_matrices
from multiscale.solve import preconditioner
from multiscale.solve.elements import Elements
from multiscale.solve.multigrid import Multigrid, choose_levels
from multiscale.solve.petsc import PETSc
from multiscale.solve.preconditioner import PREFIX, rigid_body_modes
from multiscale.solve.products import ElementProducts, Shell, by_rows, internal_forces
from multiscale.solve.ranks import sum_over_ranks


@dataclass(frozen=True)
class SolverOptions:
    """How to solve.

    Attributes
    ----------
    preconditioner : {"gmg", "gamg"}
    rtol : float
        Relative residual ``||f - K u|| / ||f||`` at which CG stops (true residual norm).
    max_iterations : int
    levels : int or None
        Number of multigrid levels; None chooses.
    smoothing : int
        Chebyshev steps before and after each coarse correction.
    """

    preconditioner: str = "gmg"
    rtol: float = 1e-6
    max_iterations: int = 500
    levels: int | None = None
    smoothing: int = 2


class Elasticity:
    """The discrete operator of one grid and one set of constrained degrees of freedom.

    Parameters
    ----------
    shape : (mx, my, mz)
        Elements per axis.
    constrained : bool array (mx+1, my+1, mz+1, 3)
        Degrees of freedom with a prescribed displacement.
    options : SolverOptions
    comm : PETSc.Comm, optional
        Default: PETSc.COMM_WORLD. All arrays that go in and come out are whole and equal on every rank.
    log : list of int, optional
        Where each solve's iterations are appended, in the order of the solves: operators may share one.

    Notes
    -----
    Call :meth:`assemble` with the element tensors, then :meth:`solve` as often as needed.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        constrained: Bools,
        options: SolverOptions | None = None,
        comm: Any = None,
        log: list[int] | None = None,
    ):
        self.shape = shape
        self.options = options or SolverOptions()
        self.comm = comm or PETSc.COMM_WORLD
        # What was dropped before, PETSc keeps until all ranks free it together.
        PETSc.garbage_cleanup()
        self.nodes = tuple(m + 1 for m in shape)
        if constrained.shape != (*self.nodes, 3):
            raise ValueError(f"constrained has shape {constrained.shape}, expected {(*self.nodes, 3)}")
        self.constrained = constrained
        self.iterations = [] if log is None else log
        geometric = self.options.preconditioner == "gmg"
        levels = (self.options.levels or choose_levels(shape)) if geometric else 1
        factor = 2 ** (levels - 1)
        self._padded = tuple(-(-m // factor) * factor for m in shape)
        self._dm = self._create_grid()
        self._elements = Elements(self._dm, shape)
        self._right, self._solution, self._mask = (self._dm.createGlobalVec() for _ in range(3))
        self._gather: tuple[Any, Any, Any] | None = None
        self._multigrid: Multigrid | None = None
        if levels > 1:
            self._multigrid = Multigrid(self._elements, self._padded, levels, self.options.smoothing)
            self._products = ElementProducts(self._elements)
            sizes = self._right.getSizes()
            self._operator = PETSc.Mat().createPython((sizes, sizes), Shell(self._products), comm=self.comm)
            self._operator.setUp()
            self._operator.setOption(PETSc.Mat.Option.SPD, True)
        else:
            self._operator = self._dm.createMat()
            self._operator.setOption(PETSc.Mat.Option.NEW_NONZERO_ALLOCATION_ERR, True)
        self._active: Bools | None = None
        self._ksp: Any = None

    # ---------------------------------------------------------------- grid
    def _create_grid(self) -> Any:
        # Reversed axes: PETSc's first axis varies fastest, as our last one does.
        sizes = tuple(m + 1 for m in reversed(self._padded))
        dm = PETSc.DMDA().create(
            sizes, dof=3, stencil_type=PETSc.DMDA.StencilType.BOX, stencil_width=1, comm=self.comm
        )
        dm.setMatType(PETSc.Mat.Type.AIJ)
        dm.setInterpolationType(PETSc.DMDA.InterpolationType.Q1)
        return dm

    # ------------------------------------------------------------ assembly
    def assemble(self, tensors: Floats) -> None:
        """Set the element tensors (mx, my, mz, 3) in units of E_s; all-zero rows are void.

        Raises
        ------
        ValueError
            If the shape is wrong, a value is not finite, or a tensor is not positive definite.
        """
        if tensors.shape != (*self.shape, 3):
            raise ValueError(f"tensors have shape {tensors.shape}, expected {(*self.shape, 3)}")
        solid = np.any(tensors != 0.0, axis=-1)
        where = np.argwhere(solid & ~is_definite(tensors))
        if len(where):
            first = f"first at element {tuple(where[0])}: {tensors[tuple(where[0])]}"
            raise ValueError(f"element tensors must be finite and positive definite; {first}")
        self._active = nodes_of(solid)[..., None] & ~self.constrained
        self._tensors = tensors
        self._solid = solid

        if self._multigrid is not None:
            self._scatter(self._active, self._mask)
            self._products.update(tensors, self._active, self._mask)
            self._operator.stateIncrease()
            self._multigrid.update(tensors, self._active, self._mask)
        else:
            self._assemble_matrix()
        if self._ksp is None:
            self._ksp = self._create_ksp()
        matrix = self._operator
        if self._multigrid is not None:
            matrix = self._multigrid.diagonal
            self._multigrid.hand_operators(self._ksp.getPC(), self._operator)
        self._ksp.setOperators(self._operator, matrix)

    def _assemble_matrix(self) -> None:
        elements = self._elements
        own = self._tensors[elements.own].reshape(-1, 3)
        free = elements.values(self._active)  # type: ignore[arg-type]
        basis = element_matrices().reshape(3, 576)

        def matrices(e: Any) -> Floats:
            k: Floats = (own[e] @ basis).reshape(-1, 24, 24)
            k *= free[e, :, None]
            k *= free[e, None, :]
            return k

        elements.assemble(self._operator, np.flatnonzero(own.any(axis=1)), matrices)

    def _create_ksp(self) -> Any:
        ksp = PETSc.KSP().create(self.comm)
        ksp.setType(PETSc.KSP.Type.CG)
        ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        ksp.setOptionsPrefix(PREFIX[self.options.preconditioner])
        ksp.setInitialGuessNonzero(True)
        if self.options.preconditioner == "gamg":
            modes = [self._scatter(mode) for mode in rigid_body_modes(self.nodes)]
            preconditioner.aggregation(ksp.getPC(), self._operator, modes)
        elif self._multigrid is None:
            preconditioner.direct(ksp.getPC())
        else:
            self._multigrid.configure(ksp.getPC())
        ksp.setFromOptions()
        return ksp

    # ---------------------------------------------------------------- vectors
    def _scatter(self, field: NDArray[Any], out: Any = None) -> Any:
        """A whole node field (mx+1, my+1, mz+1, 3) as a PETSc vector (own part kept)."""
        vector = out or self._dm.createGlobalVec()
        vector.getArray()[:] = self._elements.at_own_nodes(field).reshape(-1)
        return vector

    def _collect(self, vector: Any) -> Floats:
        """A PETSc vector as a whole node field on every rank."""
        whole = tuple(m + 1 for m in self._padded)
        if self.comm.getSize() == 1:
            values = vector.getArray(readonly=True)
        else:
            if self._gather is None:
                natural = self._dm.createNaturalVec()
                scatter, sequential = PETSc.Scatter.toAll(natural)
                self._gather = (natural, scatter, sequential)
            natural, scatter, sequential = self._gather
            self._dm.globalToNatural(vector, natural)
            scatter.scatter(natural, sequential)
            values = sequential.getArray(readonly=True)
        x, y, z = self.nodes
        return np.array(values.reshape(*whole, 3)[:x, :y, :z])

    # ----------------------------------------------------------------- solve
    def solve(
        self,
        force: Floats,
        prescribed: Floats | None = None,
        *,
        guess: Floats | None = None,
        rtol: float | None = None,
    ) -> Floats:
        """Displacements (mx+1, my+1, mz+1, 3) under nodal forces.

        Parameters
        ----------
        force : array (mx+1, my+1, mz+1, 3)
            Nodal forces in E_s h^2 (h the element edge); ignored at constrained degrees of freedom.
        prescribed : array of the same shape, optional
            Displacements at the constrained degrees of freedom; default zero.
        guess : array of the same shape, optional
            Warm start.
        rtol : float, optional
            Overrides the option.

        Raises
        ------
        NotConverged
            If CG fails, with the residual reached and what to try.
        """
        if self._active is None:
            raise RuntimeError("assemble() before solve()")
        lift = (
            None
            if prescribed is None or not np.any(prescribed)
            else np.where(self.constrained, prescribed, 0.0)
        )
        right = force if lift is None else force - self.apply(lift)
        self._scatter(right * self._active, self._right)
        x = self._solution
        if guess is None:
            x.set(0.0)
        else:
            self._scatter((guess if lift is None else guess - lift) * self._active, x)
        tolerance = self.options.rtol if rtol is None else rtol
        self._ksp.setTolerances(rtol=tolerance, atol=1e-300, divtol=1e10, max_it=self.options.max_iterations)
        self._ksp.solve(self._right, x)
        reason = self._ksp.getConvergedReason()
        self.iterations.append(self._ksp.getIterationNumber())
        if reason <= 0:
            norm = self._right.norm()
            raise NotConverged(
                f"the elasticity solve stopped after {self.iterations[-1]} iterations at relative residual "
                f"{self._ksp.getResidualNorm() / norm if norm else 0:.1e} (wanted {tolerance:.0e}, "
                f"{_reason_name(reason)}). Check that every solid part is supported and that stiffness "
                "contrasts are sane; then try [solver] preconditioner = "
                f"{'gamg' if self.options.preconditioner == 'gmg' else 'gmg'!r} or more max_iterations."
            )
        u = self._collect(x)
        return u if lift is None else u + lift

    def apply(self, field: Floats, tensors: Floats | None = None) -> Floats:
        """The unconstrained stiffness times a node field: internal nodal forces, same shape.

        Of other ``tensors`` (mx, my, mz, 3) than the assembled ones if given: those of a change, say.
        """
        own = (self._tensors if tensors is None else tensors)[self._elements.own]
        out = np.zeros((*self.nodes, 3))
        if own.size:
            corners = self._elements.corners
            out[corners] = internal_forces(by_rows(own), field[corners])
        return sum_over_ranks(out, self.comm)

    def energies(self, u: Floats, v: Floats) -> Floats:
        """``u_e^T K_i v_e`` for every element and i in (C11, C12, C44): shape (mx, my, mz, 3); zero in voids.

        With v the adjoint solution of ``K lambda = dJ/du`` the sensitivity of J is minus this.
        """
        ue, ve = self._elements.values(u), self._elements.values(v)
        out = np.zeros((*self.shape, 3))
        own = np.stack([np.einsum("ei,ei->e", ue @ k, ve) for k in element_matrices()], axis=-1)
        solid = self._solid[self._elements.own]
        out[self._elements.own] = own.reshape(*solid.shape, 3) * solid[..., None]
        return sum_over_ranks(out, self.comm)

    @property
    def unknowns(self) -> int:
        """Active degrees of freedom."""
        return 0 if self._active is None else int(np.count_nonzero(self._active))


def _reason_name(reason: int) -> str:
    names = {v: k for k, v in vars(PETSc.KSP.ConvergedReason).items() if isinstance(v, int) and v == reason}
    return names.get(reason, str(reason)).lower().replace("_", " ")
