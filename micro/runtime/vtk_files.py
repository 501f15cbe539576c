"""Files that VTK reads: what it finds wrong is an error of one line, and nothing is printed."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from micro.runtime.errors import InputError


def read_vtk(path: Path) -> Any:
    """The data set of a VTK file, as pyvista gives it.

    Raises
    ------
    InputError
        If there is no such file, or VTK finds anything wrong with it: what it reads then may be zeros.
    """
    import pyvista

    if not path.is_file():
        raise InputError("there is no such file", file=path)
    level = logging.root.manager.disable
    try:
        # VTK prints, pyvista logs and warns; what they say is in the events.
        logging.disable(logging.ERROR)
        with (
            warnings.catch_warnings(),
            pyvista.vtk_verbosity("off"),
            pyvista.VtkErrorCatcher(raise_errors=False, send_to_logging=False) as caught,
        ):
            warnings.simplefilter("ignore")
            found: Any = pyvista.read(path)
            empty = getattr(found, "n_points", 1) == 0
    except Exception as error:  # whatever VTK makes of a damaged file
        raise InputError(f"can't be read as a VTK file: {_one_line(str(error))}", file=path) from None
    finally:
        logging.disable(level)
    if caught.error_events:
        raise InputError(f"is damaged, or no VTK file: {_one_line(str(caught.error_events[0]))}", file=path)
    if empty:
        raise InputError("holds nothing that VTK can read", file=path)
    return found


def _one_line(said: str) -> str:
    """The sentence in what VTK says, whose first lines tell its own source."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line.split("): ", 1)[1] for line in lines if "): " in line), " ".join(lines))
