"""
A wish of one's own
===================

The generator can be guided by any differentiable function of the decoded shape. Here cells are to have
their tensors, and a hole through their middle along every axis, for a wire or a bolt.
"""

# %%
# A wish is a function of a shape, to be made small. The shape has the level set (positive in the solid), soft
# voxels, the volume and the tensor as torch arrays that carry their gradients. Octants are indexed from
# the cell's face, so index -1 is the mid-plane, and the last three rows of two axes are the cell's core along
# the third.
import matplotlib.pyplot as plt
import numpy as np
import torch

from micro.cell import tensor
from micro.cell.octant import cell_from_octant
from micro.data.packaged import load_dataset
from micro.dataset.dataset import part
from micro.generator.generator import Generator
from micro.generator.guidance import Wish


def core(shape):
    """How deep the solid in the core is, in voxels, on average; one number for each cell."""
    depth = 2 * shape.n * shape.levels[:, :, -3:, -3:]
    return torch.relu(depth + 0.5).mean(dim=(1, 2, 3))


# %%
# Six tensors of test cells, with the wish and without. The goal says when it is met: steps end there.
known = part(load_dataset(), "test")
rows = np.flatnonzero((known.volume > 0.4) & (known.volume < 0.7))[::60][:6]
targets = known.C[rows]

generator = Generator.load()
plain = generator.sample(targets, 1, seed=3)
guided = generator.sample(targets, 1, seed=3, guides=[Wish(core, goal=0.0)])

for name, samples in (("plain", plain), ("guided", guided)):
    filled = samples.octants()[:, :, -3:, -3:].mean(axis=(1, 2, 3))
    error = tensor.tensor_error(samples.homogenize().C, targets)
    print(f"{name}: solid in the core {np.round(filled, 2)}, tensor error {error.mean():.2%}")

# %%
# Sections through the middle of the cells: plain above, guided below.
figure, axes = plt.subplots(2, 6, figsize=(9, 3.2), layout="constrained")
for line, samples in zip(axes, (plain, guided), strict=True):
    for axis, octant in zip(line, samples.octants(), strict=True):
        axis.imshow(cell_from_octant(octant)[:, :, 32], cmap="Greys", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
plt.show()

# %%
# `raised(f)` is the wish that a function becomes large. Scalars of tensor and volume need no function:
# `micro generate --raise "K / K_HS"` on the command line, and in Python
# :func:`micro.generator.regressor.regressor`.
