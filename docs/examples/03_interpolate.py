r"""
From one cell to another
========================

A diffusion model's sampler can be run backwards: every cell has a noise from which it is drawn. Between the
noises of two cells lie cells that change from one into the other, and the target leads their stiffness along.
This follows Fig. 5 of the founding paper (Yang et al. 2024), which moves the noise alone; here the target
moves with it.
"""

# %%
# Two cells of the data set's test part, which the model has not seen: a soft and a stiff one.
import matplotlib.pyplot as plt
import numpy as np
import torch

from micro.cell import tensor
from micro.cell.octant import connectivity, largest_component, similarity
from micro.cell.picture import cell_image
from micro.data.packaged import load_dataset
from micro.dataset.dataset import part
from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.shape.space import signed_distance

cells = part(load_dataset(), "test")
young = tensor.young(cells.C)
ends = [int(np.abs(young - wanted).argmin()) for wanted in (0.06, 0.4)]

# %%
# Their coordinates in the space of shapes, and from these their noise: DDIM backwards, each under its own
# tensor.
model = Generator.load().model
STEPS = 40
z = torch.from_numpy(model.space.encode(signed_distance(cells.octants(ends))))
noise = process.invert(model.denoiser, z, Conditions.of(cells.C[ends], None), steps=STEPS).double()

# %%
# On the way from noise a to noise b they are weighed by cosine and sine, so that it stays noise of unit
# spread, and the moduli :math:`(K, \mu', G)` go along in equal ratios.
angle = np.linspace(0, np.pi / 2, 7)
share = angle / (np.pi / 2)
way = torch.stack([np.cos(a) * noise[0] + np.sin(a) * noise[1] for a in angle]).float()
first, last = np.log(tensor.to_moduli(cells.C[ends]))
targets = tensor.from_moduli(np.exp((1 - share[:, None]) * first + share[:, None] * last))

drawn = process.sample(model.denoiser, way, Conditions.of(targets, None), steps=STEPS)
levels = model.space.levels(drawn.numpy(), 32)
octants = np.stack([largest_component(level > 0) for level in levels])
own = homogenize_octants(octants)

error = tensor.tensor_error(own.C, targets)
print("in one piece, face to face:", [connectivity(octant).connected for octant in octants])
print("tensor errors:", ", ".join(f"{e:.2%}" for e in error))
print("similarity of neighbours:", np.round(similarity(octants[1:], octants[:-1]), 2))

# %%
# Above, the sequence; below, the wanted and the own Young's modulus and Poisson's ratio. Nothing was
# screened, steered or refined here, which is what
# :meth:`micro.generator.generator.Generator.sample` does besides. Not
# every pair of cells is joined so well: this is the smoothest of six pairs that were tried, and on the way
# between others errors reached 14 %.
figure = plt.figure(figsize=(10, 4.4), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[1, 1.6])
for axis, octant, e in zip(above.subplots(1, 7), octants, error, strict=True):
    axis.imshow(cell_image(octant, 200))
    axis.set_title(f"{e:.1%} off", fontsize=9)
    axis.set_axis_off()
curves = below.subplots(1, 2)
for axis, function, label in zip(
    curves, (tensor.young, tensor.poisson), ("E / $E_s$", r"$\nu$"), strict=True
):
    axis.plot(function(targets), "k-", label="wanted")
    axis.plot(function(own.C), "o", label="own")
    axis.set(xlabel="cell", ylabel=label)
curves[0].legend(frameon=False)
plt.show()
