"""
A mesh from Gmsh
================

The part is drawn and meshed in another program, and its physical groups become the case's regions: here a
bracket with a solid pin through its arm, meshed by Gmsh 4.15 (``bracket_pin.msh``, in millimetres). The
designed lattice then goes back as a mesh with a cubic material for each cell.
"""

# %%
# What Gmsh wrote: tetrahedra in two groups, ``bracket`` and ``pin``; the triangles of the group ``wall`` are
# of no use as a region, which needs solid elements or a closed surface.
import subprocess
import sys
import tempfile
from pathlib import Path

import meshio
import numpy as np

import multiscale
from micro.cell.surface import read_triangles
from micro.runtime.errors import InputError
from multiscale.export.command import export

folder = Path(tempfile.mkdtemp())
mesh_file = folder / "bracket_pin.msh"
mesh_file.write_bytes(Path("bracket_pin.msh").read_bytes())
for group in ("bracket", "pin", "wall"):
    try:
        a, b, c = np.moveaxis(read_triangles(mesh_file, group), 1, 0)
        print(f"{group}: {np.einsum('ij,ij->', a, np.cross(b, c)) / 6:.0f} mm³")
    except InputError as error:
        print(error)

# %%
# The case, on a grid of 12 x 12 x 4 cells of 2 mm. ``scale`` is elements per millimetre of the mesh, so 0.5.
# What is in neither group is void. The pin is there already (``filled = false``), is pulled down by 4 N, and
# shall move by 0.06 mm.
SHAPE = 'shape = { type = "mesh", file = "bracket_pin.msh", group = "%s", scale = 0.5 }'
(folder / "case.toml").write_text(
    f"""
[case]
name = "bracket_pin"
[grid]
elements = [12, 12, 4]
cell_size_mm = 2.0
[base_material]
young_modulus_mpa = 2000.0
[[regions]]
name = "outside"
role = "void"
shape = {{ type = "all" }}
[[regions]]
name = "bracket"
role = "design"
{SHAPE % "bracket"}
[[regions]]
name = "pin"
role = "fixed"
material = "solid"
filled = false
{SHAPE % "pin"}
[[loads]]
name = "pull"
fixed = [{{ where = "y+" }}]
[[loads.body_forces]]
vector_n_mm3 = [0.0, -0.03125, 0.0]
within = {{ type = "mesh", file = "bracket_pin.msh", group = "pin", scale = 0.5 }}
[objective]
type = "target_displacement"
[[objective.targets]]
load = "pull"
y_mm = -0.06
where = {{ within = {{ type = "mesh", file = "bracket_pin.msh", group = "pin", scale = 0.5 }} }}
[optimizer]
uniform_iterations = 10
iterations = 10
[fill]
source = "library"
polish = 0
""",
    encoding="utf-8",
)
command = [sys.executable, "-m", "multiscale", "run", "case.toml", "--out", "run", "--quiet"]
subprocess.run(command, cwd=folder, check=True)
run = multiscale.open(folder / "run")
print(run)
for name, elements in (("bracket", run.problem.design), ("pin", run.problem.solid & ~run.problem.design)):
    print(f"{name}: {elements.sum()} elements, {8 * elements.sum()} mm³")

# %%
# Back to other programs: ``export --format msh`` (Gmsh) or ``inp`` (Abaqus, CalculiX). In Gmsh's format every
# unique cell is a physical group, and its tensor stands beside the elements.
model = meshio.gmsh.read(export(folder / "run", "msh", folder / "model.msh"))
print(f"{sum(len(block.data) for block in model.cells)} hexahedra, {len(model.cells)} cubic materials")
for block, group, c11, c12, c44 in list(
    zip(model.cells, *(model.cell_data[k] for k in ("gmsh:physical", "C11", "C12", "C44")), strict=True)
)[:4]:
    print(f"  CELL_{group[0] - 1}: {len(block.data)} elements, {c11[0]:.0f}, {c12[0]:.0f}, {c44[0]:.0f} MPa")
