"""Scalars of a cell's tensor and volume, written as users write them: ``K / K_HS``, ``C12 / C11 - 1.5 * V``.

An expression is parsed, never executed: numbers, the names below, + - * / ** and brackets.

========== =====================================================================================
name       meaning
========== =====================================================================================
C11 ...    C11, C12, C44 in units of E_s
K, mu, G   bulk modulus, the shear moduli (C11 - C12) / 2 and C44
E, nu      Young's modulus and Poisson's ratio along a cell's edge
A          Zener ratio 2 C44 / (C11 - C12)
V          volume fraction of the solid
K_HS, G_HS upper bounds of K and of an isotropic cell's G at V (Hashin and Shtrikman 1963, eqs. 4.1-4.4)
========== =====================================================================================
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from micro.cell import tensor
from micro.runtime.errors import InputError

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}

OVER_BOUND = {"bulk": "K / K_HS"}
"""Moduli over their bound at the cell's volume, by the name of the modulus."""


@dataclass(frozen=True)
class Scalar:
    """A scalar of tensor and volume, for numpy arrays and torch tensors alike.

    Parameters
    ----------
    text : str
        The expression.
    poisson : float
        Poisson's ratio of the base material, on which the bounds depend.

    Raises
    ------
    InputError
        If it is no expression of :data:`NAMES`.

    Examples
    --------
    >>> import numpy as np
    >>> from micro.generator.scalars import Scalar
    >>> Scalar("C12 / (C11 + C12)")(np.array([[0.3, 0.1, 0.1]]), np.array([0.4])).round(3)
    array([0.25])
    """

    text: str
    poisson: float = tensor.POISSON

    def __post_init__(self) -> None:
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except SyntaxError:
            raise InputError("is no expression, such as K / K_HS", key="scalar", value=self.text) from None
        self._check(tree)
        object.__setattr__(self, "_tree", tree)

    def __call__(self, C: Any, volume: Any) -> Any:
        """Values (m,) of tensors (m, 3) and volumes (m,)."""
        return _value(self._tree, C, volume, self.poisson)  # type: ignore[attr-defined]

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            self._check(node.operand)
        elif isinstance(node, ast.Name):
            if node.id not in NAMES:
                raise InputError(f"{node.id}: known are {', '.join(NAMES)}", key="scalar", value=self.text)
        elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
            raise InputError("only numbers, names, + - * / ** and brackets", key="scalar", value=self.text)


_MEANING: dict[str, Callable[[Any, Any, float], Any]] = {
    "C11": lambda C, V, nu: C[..., 0],
    "C12": lambda C, V, nu: C[..., 1],
    "C44": lambda C, V, nu: C[..., 2],
    "K": lambda C, V, nu: (C[..., 0] + 2 * C[..., 1]) / 3,
    "mu": lambda C, V, nu: (C[..., 0] - C[..., 1]) / 2,
    "G": lambda C, V, nu: C[..., 2],
    "E": lambda C, V, nu: (C[..., 0] - C[..., 1]) * (C[..., 0] + 2 * C[..., 1]) / (C[..., 0] + C[..., 1]),
    "nu": lambda C, V, nu: C[..., 1] / (C[..., 0] + C[..., 1]),
    "A": lambda C, V, nu: 2 * C[..., 2] / (C[..., 0] - C[..., 1]),
    "V": lambda C, V, nu: V,
    "K_HS": lambda C, V, nu: tensor.upper_bounds(V, nu)[0],
    "G_HS": lambda C, V, nu: tensor.upper_bounds(V, nu)[1],
}

NAMES = tuple(_MEANING)
"""What an expression may name."""


def _value(node: ast.AST, C: Any, volume: Any, nu: float) -> Any:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, C, volume, nu), _value(node.right, C, volume, nu))
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, C, volume, nu)
    if isinstance(node, ast.Name):
        return _MEANING[node.id](C, volume, nu)
    assert isinstance(node, ast.Constant)
    return node.value
