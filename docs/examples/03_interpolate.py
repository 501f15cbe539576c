r"""
From one cell to another
========================

A diffusion model's sampler can be run backwards: every cell has a noise from which it is drawn. Between the
noises of two cells lie cells that change from one into the other. ``micro interpolate`` turns the noise
along an arc, takes a target tensor along, guides the sampler so that neighbours stay alike, and moves each
cell onto its target with the homogeniser's own slopes. The founding paper (Yang et al. 2024, Fig. 5) moves
the noise alone.
"""

# %%
# Two cells of the data set's test part, which the model has not seen: a soft and a stiff one.
import matplotlib.pyplot as plt
import numpy as np

from micro.cell import tensor
from micro.cell.picture import cell_image
from micro.data.packaged import load_dataset
from micro.dataset.dataset import part
from micro.explore.sequence import interpolate
from micro.generator.generator import Generator

cells = part(load_dataset(), "test")
young = tensor.young(cells.C)
ends = cells.subset([int(np.abs(young - wanted).argmin()) for wanted in (0.06, 0.4)])

# %%
# Seven steps, the ends included. The same from the command line, for two rows of the packaged set:
# ``micro interpolate dataset:100 dataset:2000 --steps 7 --out sequence``.
sequence = interpolate(Generator.load(), ends, 7)
for key, value in sequence.report().items():
    if not isinstance(value, list):
        print(f"{key:28}{value}")

# %%
# Above, the sequence; below, the path that was asked for and the cells' own Young's modulus, and how well
# neighbours fit, beside what the change of volume alone costs.
figure = plt.figure(figsize=(10, 4.4), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[1, 1.6])
octants = sequence.cells.octants()
for axis, octant, error in zip(above.subplots(1, 7), octants, sequence.errors, strict=True):
    axis.imshow(cell_image(octant, 200))
    axis.set_title(f"{error:.2%} off", fontsize=9)
    axis.set_axis_off()
path, fit = below.subplots(1, 2)
path.plot(tensor.young(sequence.targets), "k-", label="wanted")
path.plot(tensor.young(sequence.cells.C), "o", label="own")
path.set(xlabel="cell", ylabel="E / $E_s$")
path.legend(frameon=False)
between = np.arange(6) + 0.5
fit.plot(between, sequence.likeness, "o-", label="similarity of neighbours")
fit.plot(between, sequence.nested, "k--", lw=1, label="their volumes allow")
fit.set(xlabel="between cells", ylim=(0, 1.02))
fit.legend(frameon=False, loc="lower left")
plt.show()
