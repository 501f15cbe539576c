"""A cloak for any load: the worst distortion over all linear combinations of a basis of loads.

With displacement differences d_i = u_i - u_ref,i and references r_i on the observed nodes, a combination of
amplitudes a has the distortion ``v(a)^2 = (a.D a) / (a.R a)``, D_ij = <d_i, d_j>, R_ij = <r_i, r_j>. Its
largest value over all a is the largest eigenvalue of ::

    D a = lambda R a

and its mean over the ellipsoid a.R a = 1 (all combinations that move the reference alike) is the mean of the
eigenvalues. Loads of different parities about the mirror planes are orthogonal, so D and R fall into blocks,
and loads of one block share supports and operator.

The optimiser is given ``J = (c sum lambda^p)^(1/(2p))``: p = 18 and c = 1 for the worst (the p-norm of the
distortions with p = 36, as in :mod:`multiscale.objective.combination`), p = 1 and c = 1/m for the mean. J is
a trace of a power of ``A = L^-1 D L^-T`` (R = L L^T), so that it is smooth where eigenvalues meet:
with orthonormal eigenvectors q_k and a_k = L^-T q_k ::

    dJ/dD = sum_k g_k a_k a_k^T,   g_k = dJ/d lambda_k,      dJ/du_i = 2 sum_j (dJ/dD)_ij W d_j

What is reported is the largest eigenvalue itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from multiscale.case.load_space import WORST_LOAD
from multiscale.objective.combination import WORST_POWER, Value
from multiscale.objective.correction import Correction
from multiscale.objective.objective import DistortionObjective
from multiscale.problem.grid import join_elements

#: Loads whose references differ from combinations of the others by less than this (relative) are no basis.
_DEPENDENT = 1e-8


@dataclass(frozen=True)
class Worst:
    """The worst combination of loads.

    Attributes
    ----------
    distortion : float
    loads : dict of str to float
        Amplitudes, the largest 1 in magnitude; loads of another parity are left out.
    """

    distortion: float
    loads: dict[str, float]


class AnyLoadObjective(DistortionObjective):
    """The worst (``combine = "worst"``) or root mean square distortion over all combinations of the loads.

    Values by load are those of the basis; J is not made of them.

    Raises
    ------
    InputError
        If loads have different supports, or one is a combination of others on the observed nodes.
    """

    def prepare(self) -> None:
        """As :meth:`Objective.prepare`.

        Raises
        ------
        InputError
            If the loads can't be combined, or one does not move the observed nodes.
        """
        super().prepare()
        first = self.problem.loads[0]
        for load in self.problem.loads:
            if not np.array_equal(load.fixed, first.fixed):
                raise InputError(
                    f"only loads with the same supports can be combined: '{first.name}' has others",
                    key="loads",
                    value=load.name,
                )
        parities = [load.parities for load in self.loads]
        self.blocks: list[list[int]] = [
            [i for i, p in enumerate(parities) if p == parity] for parity in dict.fromkeys(parities)
        ]
        """Numbers of the loads of each parity."""
        self.factors: list[Floats] = []
        """L^-1 of each block, R = L L^T."""
        for block in self.blocks:
            gram = self.gram([self.reference[i] for i in block])
            scale = 1 / np.sqrt(np.diag(gram))
            values, vectors = np.linalg.eigh(gram * np.outer(scale, scale))
            if values[0] < _DEPENDENT:
                name = self.loads[block[int(np.argmax(np.abs(vectors[:, 0])))]].name
                raise InputError(
                    "this load moves the observed nodes as a combination of others does: leave it out",
                    key="loads",
                    value=name,
                )
            self.factors.append(np.linalg.inv(np.linalg.cholesky(gram)))

    def aim(self, correction: Correction) -> None:
        """As :meth:`Objective.aim`: R becomes that of the better model's references."""
        super().aim(correction)
        assert correction.reference is not None
        self.factors = self._factors_of(correction.reference)

    def _factors_of(self, reference: Sequence[Floats]) -> list[Floats]:
        """L^-1 of each block, R = L L^T of these references."""
        wanted = [self.deformation(i, r) for i, r in enumerate(reference)]
        grams = [self.gram([wanted[i] for i in block]) for block in self.blocks]
        return [np.linalg.inv(np.linalg.cholesky(gram)) for gram in grams]

    def within(self, loads: Collection[str]) -> Self:
        """The same over the combinations of some of the loads only; values by load stay those of all."""
        other = copy(self)
        kept = [[i for i in block if self.loads[i].name in loads] for block in self.blocks]
        other.blocks = [block for block in kept if block]
        other.factors = other._factors_of(self.reference)
        return other

    def gram(self, fields: list[Floats]) -> Floats:
        """Inner products (k, k) of displacement fields over the observed nodes."""
        rows = np.stack([f.reshape(-1) for f in fields])
        weight = np.repeat(self._node_weight.reshape(-1), 3)
        return np.asarray((rows * weight) @ rows.T)

    def _spectrum(self, displacements: list[Floats]) -> list[tuple[Floats, Floats]]:
        """Eigenvalues (k,) and amplitudes (k, k), a column each, of every block."""
        return self._spectrum_of([self.difference(i, u) for i, u in enumerate(displacements)], self.factors)

    def _spectrum_of(self, differences: list[Floats], factors: list[Floats]) -> list[tuple[Floats, Floats]]:
        found = []
        for block, inverse in zip(self.blocks, factors, strict=True):
            gram = self.gram([differences[i] for i in block])
            values, vectors = np.linalg.eigh(inverse @ gram @ inverse.T)
            found.append((np.maximum(values, 0.0), inverse.T @ vectors))
        return found

    def spectrum(self, displacements: list[Floats]) -> Floats:
        """Distortions (loads,) of the principal combinations, the worst first."""
        return _distortions(self._spectrum(displacements))

    def worst(self, displacements: list[Floats]) -> Worst:
        """The worst combination of all."""
        spectra = self._spectrum(displacements)
        number = int(np.argmax([v[-1] for v, _ in spectra]))
        values, amplitudes = spectra[number]
        a = amplitudes[:, -1]
        a = a / a[np.argmax(np.abs(a))]
        names = [self.loads[i].name for i in self.blocks[number]]
        return Worst(float(np.sqrt(values[-1])), dict(zip(names, a.tolist(), strict=True)))

    def value_of(self, displacements: list[Floats]) -> Value:
        """The exact worst (or root mean square) distortion, and that of each basis load."""
        return Value(self._exact(self.spectrum(displacements)), self.per_load(displacements))

    def joined(self, parts: Sequence[Value]) -> Value:
        """As :meth:`Objective.joined`: parities are orthogonal, their spectra together the whole one."""
        values, sizes = np.array([part.total for part in parts]), [len(part.per_load) for part in parts]
        worst = self.combination.kind == "worst"
        total = float(values.max() if worst else np.sqrt(np.average(values**2, weights=sizes)))
        return Value(total, super().joined(parts).per_load)

    def value_elsewhere(
        self, displacements: list[Floats], work: list[float], reference: list[Floats] | None
    ) -> Value:
        """As :meth:`Objective.value_elsewhere`: against the other model's own references."""
        assert reference is not None
        differences = [
            self.deformation(i, u - r) for i, (u, r) in enumerate(zip(displacements, reference, strict=True))
        ]
        spectra = self._spectrum_of(differences, self._factors_of(reference))
        return Value(self._exact(_distortions(spectra)), self.values_against(displacements, reference))

    def _exact(self, distortions: Floats) -> float:
        """J without smoothing, of the principal distortions."""
        if self.combination.kind == "worst":
            return float(distortions[0])
        return float(np.sqrt(np.mean(distortions**2)))

    def combine(self, displacements: list[Floats], worst: Worst) -> Floats:
        """Displacements of a combination; reduced grid, of the parity that its loads have in common."""
        numbers = {load.name: i for i, load in enumerate(self.loads)}
        return np.asarray(sum(a * displacements[numbers[name]] for name, a in worst.loads.items()))

    def measures_of(self, tensors: Floats, displacements: list[Floats], worst: Worst) -> dict[str, float]:
        """``strain_deviation`` and ``energy_mismatch`` under a combination; ``tensors`` (mx, my, mz, 3)."""
        number = next(i for i, load in enumerate(self.loads) if load.name in worst.loads)
        fields = (self.combine(f, worst) for f in (displacements, self.reference))
        return self.measures(tensors, number, *fields)

    def details(self, tensors: Floats, displacements: list[Floats]) -> dict[str, Any]:
        """As for a distortion, with the worst and the root mean square combination in ``any_load``."""
        found, worst = self.spectrum(displacements), self.worst(displacements)
        sections = super().details(tensors, displacements)
        sections["measures"][WORST_LOAD] = self.measures_of(tensors, displacements, worst)
        return sections | {
            "any_load": {
                "worst": worst.distortion,
                "mean_square": float(np.sqrt(np.mean(found**2))),
                "principal": found.tolist(),
                "worst_load": worst.loads,
            }
        }

    def weigh(self, field: Floats) -> Floats:
        """A displacement field times the observed nodes' weights: ``np.sum(weigh(a) * b)`` is <a, b>."""
        return self._node_weight[..., None] * field

    def of_amplitudes(self, amplitudes: list[Floats]) -> Floats:
        """J, shape (...), of the differences' amplitudes (modes, ...) in orthonormal modes of each parity."""
        eigenvalues = []
        for block, inverse in zip(self.blocks, self.factors, strict=True):
            y = np.stack([amplitudes[i] for i in block])
            z = np.einsum("ab,bk...->...ak", inverse, y)
            eigenvalues.append(np.maximum(np.linalg.eigvalsh(z @ np.swapaxes(z, -1, -2)), 0.0))
        return self.smooth(np.concatenate(eigenvalues, axis=-1))

    sharpness: float = 1.0
    """Factor on the exponent of the smooth maximum."""

    def sharpen(self, stage: int) -> None:
        """Twice as sharp in every further stage that moves all elements.

        A blunt maximum leads somewhere sooner, a sharp one nearer to the least worst distortion: the cylinder
        in 40^3 ends at 0.0757 after one stage, at 0.0754 after 50 evaluations of another one alike, at 0.0750
        after 50 of a sharper one, and at 0.0766 if it is as sharp from the beginning.
        """
        self.sharpness = 2.0 ** max(0, stage - 1)

    def smooth(self, eigenvalues: Floats) -> Floats:
        """J, shape (...), of eigenvalues (..., m) of all blocks together."""
        p, c = self._power
        top = np.maximum(eigenvalues.max(axis=-1, keepdims=True), 1e-300)
        total = np.sum((eigenvalues / top) ** p, axis=-1)
        return np.asarray(np.sqrt(top[..., 0]) * (c * total) ** (0.5 / p))

    @property
    def _power(self) -> tuple[float, float]:
        """p and c of J."""
        return (
            (self.sharpness * WORST_POWER / 2, 1.0)
            if self.combination.kind == "worst"
            else (1.0, 1.0 / sum(map(len, self.blocks)))
        )

    def value_and_gradient(self, tensors: Floats) -> tuple[Value, Floats]:
        """The smooth J and dJ/dC, shape (mx, my, mz, 3), as :meth:`Objective.value_and_gradient`."""
        displacements = self.displacements(tensors)
        spectra = self._spectrum(displacements)
        total = float(self.smooth(np.concatenate([v for v, _ in spectra])))
        gradient = np.zeros((*self.reduction.shape, 3))
        if total > 0.0:
            p, c = self._power
            for block, (values, a) in zip(self.blocks, spectra, strict=True):
                g = c / (2 * total) * (values / total**2) ** (p - 1)
                inner = (a * g) @ a.T
                differences = [self.difference(i, displacements[i]) for i in block]
                for row, i in enumerate(block):
                    pulled = sum(2 * inner[row, k] * d for k, d in enumerate(differences))
                    right = self.weigh(np.asarray(pulled))
                    operator = self.operators[i]
                    adjoint = operator.solve(right, rtol=self.adjoint_rtol)
                    gradient -= operator.energies(adjoint, displacements[i])
        return Value(total, self.per_load(displacements)), join_elements(gradient, self.split)


def _distortions(spectra: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Square roots of all blocks' eigenvalues, the largest first."""
    values = np.concatenate([v for v, _ in spectra])
    return np.sqrt(np.maximum(np.sort(values)[::-1], 0.0))
