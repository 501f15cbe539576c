"""The design stage of a run: a search for a design with its progress shown; the first, and those corrected.

Every rank searches; rank 0 alone writes.
"""

from __future__ import annotations

from pathlib import Path

from micro.gamut.gamut import Gamut
from micro.runtime.arrays import Floats
from micro.runtime.progress import Reporter
from multiscale.design.board import open_board
from multiscale.design.mass import MassLimit
from multiscale.design.optimize import Optimiser, Settings
from multiscale.design.space import DesignSpace
from multiscale.design.state import Record, State
from multiscale.objective.objective import Objective
from multiscale.solve.ranks import is_root


def find_design(
    objective: Objective,
    space: DesignSpace,
    gamut: Gamut,
    settings: Settings,
    start: Floats | State,
    folder: Path,
    reporter: Reporter,
    name: str = "design",
    *,
    limit: MassLimit | None = None,
    tensorboard: bool = False,
) -> tuple[State, list[int]]:
    """Search for a design; kept in ``folder``, from where the same call goes on after an interruption.

    Parameters
    ----------
    objective : Objective
    space : DesignSpace
    gamut : Gamut
    settings : Settings
    start : array, shape (N, 3), or State
        Tensors of the initial design, or variables with the stage to begin with.
    folder : Path
        For its evaluations and history.
    reporter : Reporter
    name : str
        What is shown beside the bar.
    limit : MassLimit, optional
        A further constraint.
    tensorboard : bool
        Whether the history is written for TensorBoard too.

    Returns
    -------
    state : State
        The last one; its ``best`` is None if no design was within the limit.
    iterations : list of int
        Of every solve of the search.

    Raises
    ------
    InputError
        If the algorithm can't keep the limit.
    NotConverged
        If a solve fails.
    """
    first = settings.uniform_evaluations if not isinstance(start, State) else 0
    root = is_root()
    with (
        reporter.task(name, first + settings.stages * settings.evaluations) as task,
        open_board(folder if root and tensorboard else None, ()) as write,
    ):

        def show(record: Record) -> None:
            detail = f"stage {record['stage']}, {objective.quantity} {record[objective.quantity]:.4g}"
            if record["violations"]:
                detail += f", {record['violations']} violations"
            task.advance(0 if record["kind"] == "projection" else 1, detail, record)
            write(record)

        optimiser = Optimiser(objective, space, gamut, settings, folder, show, limit, write=root)
        if optimiser.evaluations.kept:
            reporter.say(f"{name}: resuming after {optimiser.evaluations.kept} evaluations, which are kept")
        state = optimiser.run(start if isinstance(start, State) else optimiser.initial_state(start))
    return state, optimiser.evaluations.iterations
