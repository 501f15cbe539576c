"""
Extreme cells from generated starts
===================================

Where topology optimisation ends depends on where it starts. ``micro extreme`` asks the data set for cells
near the extreme, has the generator draw new ones with their tensors, and optimises each of them (Yang et
al. 2024, Fig. 4); random starts beside them show what that is worth.
"""

# %%
# A cell that gets wider when pulled, at a fifth of solid. Three starts of each kind, coarse cells and few
# evaluations, so that this page builds soon; a hundred of each is
# ``micro extreme --objective poisson --volume 0.2 --stiffness 0.008 --starts 100 --compare --out auxetic``.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from micro.explore.extreme import Plan, explore, summary
from micro.explore.extreme_figure import save_figure
from micro.inverse import Goal

plan = Plan(Goal("poisson", 0.2, stiffness=0.008), n=16, starts=3, compare=True, effort=0.3)
folder = Path(tempfile.mkdtemp()) / "auxetic"
runs = explore(plan, folder)
for kind, row in summary(plan, runs)["kinds"].items():
    print(f"{kind}: {row['connected']:.0%} end connected, median {row['median']:.3f}, best {row['best']:.3f}")

# %%
# Open circles are the starts, filled ones the ends, dotted the least stiffness; below, the best four.
save_figure(folder / "extreme.png", plan, runs)
figure, axis = plt.subplots(figsize=(10, 6.4))
axis.imshow(plt.imread(folder / "extreme.png"))
axis.set_axis_off()
figure.subplots_adjust(0, 0, 1, 1)
plt.show()
