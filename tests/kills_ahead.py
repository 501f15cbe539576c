"""What a command imports and reads before it starts MPI, once in the process that kills.py forks from."""

import multiscale.export.command
import multiscale.fill.make_source
import multiscale.report.page
import multiscale.verify.coarse_cells  # noqa: F401
from micro.data.packaged import load_gamut

_ = load_gamut("dataset").box
