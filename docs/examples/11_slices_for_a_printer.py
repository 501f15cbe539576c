"""
Slices for a printer
====================

A small lattice sliced at a PolyJet printer's own pitch (600 x 300 dpi, layers of 27 µm), read back, and
compared with the cells' level sets and with the voxels. From the command line, of a run: ``multiscale export
runs/cloak --out slices --region 18:22,8:12,18:22 --pixel 0.0423,0.0846 --layer 0.027`` and ``multiscale
printability runs/cloak --exported slices``.
"""

# %%
# Three trusses of the data set of rising stiffness, each twice along the bar: 6 x 2 x 2 cells of 5 mm, with
# 64 voxels of 0.078 mm along an edge.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from micro.cell import tensor
from micro.data.packaged import load_dataset
from micro.runtime.progress import Reporter
from multiscale.export.command import export
from multiscale.export.volume.level_sets import LevelSets
from multiscale.lattice.sequence import graded_bar
from multiscale.printability.exported import assess_file, described, read_slices

cells = load_dataset()
cells = cells.subset(np.flatnonzero(cells.family == "truss"))
young = tensor.young(cells.C)
rows = [int(np.abs(young - wanted).argmin()) for wanted in (0.05, 0.12, 0.25)]
lattice = graded_bar(cells.subset(rows), repeat=2, cell_size_m=5e-3)
folder = Path(tempfile.mkdtemp())
lattice.save(folder / "bar.zarr")

# %%
# The size is said first; the last line compares the volume of the solid pixels with the cells' own.
stack = export(
    folder / "bar.zarr",
    "slices",
    folder / "stack",
    pixel_mm=(0.0423, 0.0846),
    layer_mm=0.027,
    reporter=Reporter(),
)

# %%
# Read back: every pixel of a slice has the sign of its cell's level set at its centre. Here the level set
# is looked up again, along one row of pixels of slice 100.
solid, pitch, origin = read_slices(stack)
print(solid.shape, pitch, f"{solid.mean():.1%} solid")
edge, size, layer, row = 5.0, lattice.voxels_per_cell, 100, 30
sets = LevelSets(lattice)
place = (layer + 0.5) * pitch[2] / edge * size
x, y = (np.arange(solid.shape[0]) + 0.5) * pitch[0], (row + 0.5) * pitch[1]
levels = []
for at in x:
    kind = lattice.kinds[int(at / edge), 0, 0]
    plane = sets.planes(np.array([kind]), place)[0]
    samples = np.clip(np.array([y % edge, at % edge]) / edge * size - 0.5, 0, size - 1)
    low = np.minimum(samples.astype(int), size - 2)
    v, u = samples - low
    corners = plane[low[0] : low[0] + 2, low[1] : low[1] + 2]
    levels.append(np.array([1 - v, v]) @ corners @ np.array([1 - u, u]))
wrong = (np.array(levels) > 0) != solid[:, row, layer]
print(f"{wrong.sum()} of {len(wrong)} pixels of the row disagree")

# %%
# A slice of two cells, beside the layer of voxels that it is nearest to: the level sets have smooth walls
# where voxels have steps.
voxels = lattice.voxels()[:, :, int(place)]
figure, axes = plt.subplots(2, 1, figsize=(8, 8), layout="constrained")
for axis, image, name in (
    (axes[0], solid[237:473, :59, layer], "slice, 0.0423 x 0.0846 mm"),
    (axes[1], voxels[128:256, :64], "voxels, 0.078 mm"),
):
    axis.imshow(image.T, cmap="gray_r", interpolation="nearest", extent=(10, 20, 5, 0))
    axis.set(title=name, xlabel="x [mm]", ylabel="y [mm]")

# %%
# What ships beside what it was made from: walls and gaps, pieces, cavities, islands and bridges by layer.
print("\n".join(described(assess_file(lattice, stack))))
