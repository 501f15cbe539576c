"""
A cloak in a slice
==================

A block is clamped below and sheared at its top. A hole in it disturbs the displacement all around; a ring of
other elastic tensors, the cloak, brings it back. This is the flagship's problem on 20 x 20 x 4 elements, and
only its first stage: the field of tensors, before cells are put in (``multiscale run`` goes on to these).
"""

# %%
# The case, written here as a case file is.
import tomllib

import matplotlib.pyplot as plt
import numpy as np

from micro.cell import tensor
from micro.runtime.progress import Reporter
from multiscale.case.case import parse_case
from multiscale.design.optimize import Optimiser, Settings
from multiscale.run.session import Session

text = """
[case]
name = "slice"
[grid]
elements = [20, 20, 4]
[base_material]
young_modulus_mpa = 2000.0
[materials.surrounding]
tensor = [0.303974, 0.125975, 0.089000]
[[regions]]
name = "surroundings"
role = "fixed"
material = "surrounding"
shape = { type = "all" }
[[regions]]
name = "cloak"
role = "design"
shape = { type = "cylinder", axis = "z", center = [10, 10], radius = 6.6667 }
[[regions]]
name = "hole"
role = "void"
shape = { type = "cylinder", axis = "z", center = [10, 10], radius = 3.3333 }
[[loads]]
name = "shear"
fixed = [{ where = "y-" }]
tractions = [{ where = "y+", vector_mpa = [1.0, 0.0, 0.0] }]
[objective]
observe = ["surroundings"]
reference = "surrounding"
[filter]
radius = 1.5
"""
session = Session(parse_case(tomllib.loads(text)), Reporter(False))
objective, space = session.objective, session.space()

# %%
# The hole without a cloak, then the design. Mirror planes are found and used, so a quarter of the slice is
# solved.
plain = objective.value(session.plain_field)
optimiser = Optimiser(
    objective, space, session.gamut, Settings(uniform_evaluations=12, stages=1, evaluations=25)
)
start = session.plain_field[session.design_mask]
state = optimiser.run(optimiser.initial_state(start))
cloak = space.field(state.best)
print(f"distortion of the surroundings: {plain.total:.1%} without a cloak, {state.best_value:.2%} with it")

# %%
# Left and middle, how far each point of the surroundings is from where it would be without a hole, in per
# cent of the largest displacement, the block drawn displaced. Right, Young's modulus of the cloak along
# the grid.
reduction, load = objective.reduction, objective.reduction.loads[0]


def whole(field):
    """Displacements of all nodes of the middle plane, (21, 21, 3)."""
    (u,) = objective.displacements(field)
    return reduction.expand_displacement(u, load)[:, :, 2]


reference = reduction.expand_displacement(objective.reference[0], load)[:, :, 2]
solid = session.problem.solid[:, :, 2]
largest = np.linalg.norm(reference, axis=-1).max()
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
nodes = np.stack(np.meshgrid(np.arange(21), np.arange(21), indexing="ij"), axis=-1)
for axis, field, title in zip(axes, (session.plain_field, cloak), ("hole", "hole with cloak"), strict=False):
    u = whole(field)
    x, y = np.moveaxis(nodes + 3 / largest * u[..., :2], -1, 0)
    off = 100 * np.linalg.norm(u - reference, axis=-1) / largest
    of_element = (off[1:, 1:] + off[:-1, 1:] + off[1:, :-1] + off[:-1, :-1]) / 4
    shown = np.where(solid, of_element, np.nan)
    image = axis.pcolormesh(x, y, shown, vmin=0, vmax=40, cmap="magma_r")
    axis.set_title(title)
figure.colorbar(image, ax=axes[:2], label="off by, %", shrink=0.8)
young = tensor.young(reduction.expand_elements(cloak)[:, :, 2])
image = axes[2].pcolormesh(np.where(solid, young, np.nan).T, cmap="viridis", edgecolors="0.8", lw=0.2)
axes[2].set_title("stiffness of the cloak")
figure.colorbar(image, ax=axes[2], label="E / $E_s$", shrink=0.8)
for axis in axes:
    axis.set_aspect("equal")
    axis.set_axis_off()
plt.show()
