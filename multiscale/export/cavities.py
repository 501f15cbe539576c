"""``--fill-cavities`` and ``--drain``: what is exported without enclosed void; said and recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from micro.runtime.progress import Reporter
from multiscale.lattice.block import Block
from multiscale.lattice.draining import described, without_cavities
from multiscale.lattice.lattice import Lattice
from multiscale.rundir.directory import addable_run

Cavities = Literal["fill", "drain"]


@dataclass(frozen=True)
class CavityOptions:
    """What is done about enclosed void: ``channel_mm`` is the width of the channels that drain it."""

    cavities: Cavities
    channel_mm: float | None = None

    @property
    def option(self) -> str:
        """As the command has it."""
        return "--drain" if self.cavities == "drain" else "--fill-cavities"

    def check(self, lattice: Lattice, per_cell: int) -> None:
        """Raise InputError where the options do not fit the lattice.

        Raises
        ------
        InputError
            Naming the option.
        """
        if per_cell != lattice.voxels_per_cell:
            raise InputError(
                "needs the cells' own voxels: leave out --voxels-per-cell", key=self.option, value=per_cell
            )
        most = 500 * lattice.cell_size_m
        if self.channel_mm is not None and not (self.cavities == "drain" and 0 < self.channel_mm <= most):
            raise InputError(
                f"is a width in mm for --drain, up to half a cell's edge, {most:.4g} mm",
                key="--channel",
                value=self.channel_mm,
            )


def export_without_cavities(
    run_dir: PathLike, lattice: Lattice, block: Block, options: CavityOptions, out: Path, reporter: Reporter
) -> Lattice:
    """The lattice without enclosed void in the block; what was changed is said, and added to a run's metrics.

    Parameters
    ----------
    run_dir : path
        Whose metrics say what was changed.
    lattice : Lattice
    block : Block
    options : CavityOptions
    out : path
        The file to be written, for the metrics.
    reporter : Reporter

    Raises
    ------
    InputError
        If the run can't be added to.
    """
    run = addable_run(run_dir)
    radius = None if options.channel_mm is None else options.channel_mm / 2
    with reporter.task("cavities", 1) as task:
        changed, changes = without_cavities(
            lattice, block, drain=options.cavities == "drain", radius_mm=radius, progress=task.reach
        )
    reporter.say(described(changes))
    if run is not None:
        said = {"file": out.name, "region": str(block), "option": options.option} | asdict(changes)
        run.add("changes", said, reads=("lattice.zarr",))
    return changed
