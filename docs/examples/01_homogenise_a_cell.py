"""
A cell's stiffness and its bounds
=================================

Three cells by formula, each of 40 % solid: a minimal surface, a truss and plates. Homogenisation gives the
elastic constants of a block of many such cells, and Hashin and Shtrikman's bound says how stiff any cell of
that volume can be.
"""

# %%
# A family is a level set with parameters; some are drawn, and the threshold is set to the wanted volume. An
# octant is one eighth of the cell, which is its mirror image.
import matplotlib.pyplot as plt
import numpy as np

from micro.cell import tensor
from micro.cell.picture import cell_image
from micro.data.packaged import load_dataset
from micro.families.families import family
from micro.homogenize.octants import homogenize_octants

names = ["tpms-solid", "truss", "plates"]
drawn = [(family(name), np.random.default_rng(3)) for name in names]
octants = np.stack([f.octant(f.sample(rng, volume=0.4), 32) for f, rng in drawn])

result = homogenize_octants(octants)
for name, C, volume in zip(names, result.C, result.volume, strict=True):
    c11, c12, c44 = C
    print(
        f"{name:10s} volume {volume:.3f}: C11 {c11:.4f}, C12 {c12:.4f}, C44 {c44:.4f} E_s; "
        f"bulk modulus {tensor.bulk(C):.4f}, Zener ratio {tensor.zener(C):.2f}"
    )

# %%
# Left, the cells, their near corner cut out. Right, bulk moduli of the data set (grey), of the three, and the
# bound: no point lies above it. Plates come closest, since walls carry load in all of their plane, while rods
# carry it along one direction only.
dataset = load_dataset()
figure = plt.figure(figsize=(10, 3.6), layout="constrained")
pictures, chart = figure.subfigures(1, 2, width_ratios=[1.7, 1])
colours = ["tab:red", "tab:green", "tab:purple"]
for axis, octant, name, colour in zip(pictures.subplots(1, 3), octants, names, colours, strict=True):
    axis.imshow(cell_image(octant, 240))
    axis.set_title(name, color=colour)
    axis.set_axis_off()

axis = chart.subplots()
volume = np.linspace(0, 1, 200)[1:-1]
axis.plot(dataset.volume, tensor.bulk(dataset.C), ",", color="0.6")
axis.plot(volume, tensor.hashin_shtrikman(volume)[0], "k", lw=1, label="upper bound")
for C, v, colour, size in zip(result.C, result.volume, colours, (9, 5, 5), strict=True):
    axis.plot(v, tensor.bulk(C), "o", color=colour, markersize=size)
axis.set(xlabel="volume fraction", ylabel="bulk modulus / $E_s$", xlim=(0, 1), ylim=(0, None))
axis.legend(frameon=False)
plt.show()
