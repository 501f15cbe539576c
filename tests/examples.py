"""Small problems and a gamut in closed form, for tests."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np

from micro.cell import tensor
from multiscale.case.case import parse_case


class Ellipsoid:
    """phi = 1 - |(m - centre) / axes|, scaled by the smallest axis; a smooth convex stand-in for a gamut."""

    centre = np.array([0.35, 0.4, 0.3])
    axes = np.array([0.3, 0.15, 0.2])

    def phi(self, tensors):
        z = (tensor.scaled_moduli(tensors) - self.centre) / self.axes
        return self.axes.min() * (1.0 - np.linalg.norm(z, axis=-1))

    def gradient(self, tensors):
        z = (tensor.scaled_moduli(tensors) - self.centre) / self.axes
        g = -self.axes.min() * z / np.linalg.norm(z, axis=-1, keepdims=True) / self.axes
        return g @ np.linalg.inv(tensor.from_scaled_moduli(np.eye(3)).T)

    def hessian(self, tensors):
        h = 1e-5
        columns = [
            (self.gradient(tensors + h * e) - self.gradient(tensors - h * e)) / (2 * h) for e in np.eye(3)
        ]
        return np.stack(columns, axis=-1)

    def project(self, tensors, margin=0.0):
        """Nearest point: q = a^2 m / (a^2 + t) with t from a scalar equation, solved by bisection."""
        radius = 1.0 - margin / self.axes.min()
        a2 = (self.axes * radius) ** 2
        m = (tensor.scaled_moduli(tensors) - self.centre).reshape(-1, 3)
        low, high = np.zeros(len(m)), np.full(len(m), 100.0)
        for _ in range(200):
            t = (low + high) / 2
            outside = np.sum(a2 * m**2 / (a2 + t[:, None]) ** 2, axis=1) > 1.0
            low, high = np.where(outside, t, low), np.where(outside, high, t)
        inside = np.sum(m**2 / a2, axis=1) <= 1.0
        q = np.where(inside[:, None], m, a2 * m / (a2 + high[:, None]))
        return tensor.from_scaled_moduli(q + self.centre).reshape(tensors.shape)


def cloak(n=8, loads=("shear_x",), mirror="auto"):
    """The flagship's geometry on an n^3 grid, with one to three loads."""
    vectors = {"shear_x": [1.0, 0, 0], "tension_y": [0, 1.0, 0], "shear_z": [0, 0, 1.0]}
    return parse_case(
        {
            "case": {"name": "test"},
            "grid": {"elements": [n, n, n], "cell_size_mm": 1.0, "mirror": mirror},
            "base_material": {"young_modulus_mpa": 1.0, "poisson": 0.3},
            "materials": {"soil": {"tensor": [0.303974, 0.125975, 0.089]}},
            "regions": [
                {"name": "outside", "role": "fixed", "material": "soil", "shape": {"type": "all"}},
                {"name": "ring", "role": "design", "shape": cylinder(n, n / 3)},
                {"name": "hole", "role": "void", "shape": cylinder(n, n / 6)},
            ],
            "loads": [
                {
                    "name": name,
                    "weight": float(i + 1),
                    "fixed": [{"where": "y-"}],
                    "tractions": [{"where": "y+", "vector_mpa": vectors[name]}],
                }
                for i, name in enumerate(loads)
            ],
            "objective": {"observe": ["outside"], "reference": "soil"},
        }
    )


def cylinder(n, radius):
    return {"type": "cylinder", "axis": "z", "center": [n / 2, n / 2], "radius": radius}


MINIMAL = (Path(__file__).parent / "multiscale" / "minimal.toml").read_text(encoding="utf-8")


def varied(*changes):
    """MINIMAL with each old text replaced by the new one; an old text that is not there is an error."""
    text = MINIMAL
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def case_of(text=MINIMAL):
    return parse_case(tomllib.loads(text), "test.toml")
