"""
A cell by topology optimisation
===============================

Inverse homogenisation looks for the cell of 30 % solid with the largest bulk modulus, on a coarse grid of 16
voxels an octant's edge. ``micro optimize`` does the same on finer ones.
"""

# %%
# The run is a state and a step, so it can be stopped, kept and looked at. The first field has one cavity with
# rounded edges.
import matplotlib.pyplot as plt
import numpy as np

from micro.cell import tensor
from micro.cell.picture import cell_image
from micro.inverse import Goal, Settings, optimise

settings = Settings(Goal("bulk", volume=0.3), n=16, start="walls")
result = optimise(settings)

bound = tensor.hashin_shtrikman(result.volume)[0]
share = result.value / bound
print(f"bulk modulus {result.value:.4f} E_s at volume {result.volume:.3f}: {share:.1%} of the bound")
print(f"{result.solves} homogenisations, tensor {np.round(result.C, 4)}")

# %%
# Left, the bulk modulus of the cell as it is designed, with grey voxels; at the grey lines the step that
# makes it black and white becomes sharper. Right, the cell, cut open.
figure, (chart, picture) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=[1.4, 1], layout="constrained")
_, sharpness, value, _ = np.array(result.state.history).T
chart.plot(value, ".-", label="as designed, grey")
for step in np.flatnonzero(np.diff(sharpness)) + 0.5:
    chart.axvline(step, color="0.8", lw=1)
chart.axhline(result.value, color="tab:orange", label="black and white, its surface moved")
chart.axhline(bound, color="k", ls="--", lw=1, label="Hashin-Shtrikman")
chart.set(xlabel="homogenisation", ylabel="bulk modulus / $E_s$", ylim=(0, None))
chart.legend(frameon=False)
picture.imshow(cell_image(result.octant, 300))
picture.set_axis_off()
plt.show()
