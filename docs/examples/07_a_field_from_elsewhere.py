"""
A field from elsewhere
======================

Another program has designed a part: here a density on a mesh of its own, as many topology optimisers
write. ``[design] source`` takes it into a case. It is projected onto the tensors that known cells have,
filled with cells, judged as built, and exported; nothing is optimised.
"""

# %%
# The other program's result: a VTU of 12 x 3 hexahedra in millimetres, with a density in each.
import subprocess
import sys
import tempfile
from pathlib import Path

import meshio
import numpy as np

import multiscale
from multiscale.export.command import export

folder = Path(tempfile.mkdtemp())
x, y = np.meshgrid(np.linspace(0, 12, 13), np.linspace(0, 6, 4), indexing="ij")
points = np.concatenate([np.stack([x, y, np.full_like(x, z)], axis=-1).reshape(-1, 3) for z in (0.0, 2.0)])
i, j = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(3), indexing="ij"))
below = np.stack([4 * i + j, 4 * (i + 1) + j, 4 * (i + 1) + j + 1, 4 * i + j + 1], axis=-1)
density = 0.45 + 0.2 * np.cos(np.pi * points[below].mean(axis=1)[:, 0] / 6)
meshio.vtu.write(
    folder / "theirs.vtu",
    meshio.Mesh(points, [("hexahedron", np.hstack([below, below + 52]))], cell_data={"rho": [density]}),
)

# %%
# The case that takes it: a cantilever of 6 x 3 x 1 cells of 2 mm. ``density`` names the array, ``exponent``
# the law E = rho^p E_s, ``scale`` the elements per millimetre.
(folder / "case.toml").write_text(
    """
[case]
name = "theirs"
[grid]
elements = [6, 3, 1]
cell_size_mm = 2.0
[base_material]
young_modulus_mpa = 2000.0
[[regions]]
name = "beam"
role = "design"
shape = { type = "all" }
[[loads]]
name = "bend"
fixed = [{ where = "x-" }]
tractions = [{ where = "x+", vector_mpa = [0.0, -1.0, 0.0] }]
[objective]
type = "target_displacement"
targets = [{ load = "bend", where = "x+", y_mm = -0.5 }]
[design]
source = "theirs.vtu"
density = "rho"
exponent = 2.0
scale = 0.5
[fill]
source = "library"
polish = 0
""",
    encoding="utf-8",
)
command = [sys.executable, "-m", "multiscale", "run", "case.toml", "--out", "run", "--quiet"]
subprocess.run(command, cwd=folder, check=True)
run = multiscale.open(folder / "run")
given = run.metrics["design"]
print(f"{given['projected']} of 18 tensors outside the gamut; moved at most {given['projected_by_max']:.1%}")
print(run)

# %%
# The lattice stands in the run as any other: its cells' own tensors beside those that were asked for, and a
# printable file.
asked = run.design[..., 0].ravel()
built = run.lattice.tensors()[..., 0].ravel()
print("C11 asked for, built:")
for a, b in list(zip(asked, built, strict=True))[::3]:
    print(f"  {a:.4f}  {b:.4f}")
part = export(folder / "run", "stl", folder / "part.stl", per_cell=16)
print(f"{part.name}: {part.stat().st_size / 1e6:.1f} MB")

# %%
# Verified: the same lattice solved voxel by voxel. A beam one cell thick is far from the many cells that a
# homogenised tensor speaks of, and the voxels say by how much; a model alone would have looked better.
command = [sys.executable, "-m", "multiscale", "verify", "run", "--voxels-per-cell", "8"]
subprocess.run(command, cwd=folder, check=True, capture_output=True)
verified = multiscale.open(folder / "run").metrics["verify"]
print(
    f"mismatch homogenised {verified['mismatch_homogenised']:.3f}, voxel by voxel {verified['mismatch']:.3f}"
)
