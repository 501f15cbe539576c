"""Pictures drawn by VTK in a process of its own: a graphics driver that fails may take its process with it.

That process is a command, ``python -m MODULE``, not a copy of the caller: multiprocessing would run the
caller's script again, which without a ``__main__`` guard would come here again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from numpy.typing import NDArray

from micro.runtime.arrays import Bytes
from micro.runtime.npz import read_arrays, write_arrays

Arrays = Mapping[str, NDArray]
Images = list[Bytes]

_SECONDS = 120  # after which a renderer counts as hung
_ADVICE = "On Debian: apt-get install libegl1 libgl1 libgl1-mesa-dri libxrender1"


def drawn(module: str, arrays: Arrays) -> tuple[Images, str | None]:
    """Images (height, width, 3) that a module draws of arrays, or none and the reason why.

    Parameters
    ----------
    module : str
        Its name; started as a command it calls :func:`answer`.
    arrays : mapping of str to array
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, made = Path(folder) / "asked.npz", Path(folder) / "made.npz"
        write_arrays(asked, arrays, pack=False)
        # The packages are found where this process found them.
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        # Without a display VTK tries X first and prints a warning; EGL needs none.
        if not os.environ.get("DISPLAY"):
            variables = {"VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow"} | variables
        line = [sys.executable, "-m", module, str(asked), str(made)]
        try:
            done = subprocess.run(
                line, env=variables, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return [], f"VTK did not finish in {_SECONDS} s"
        except OSError as error:
            return [], f"VTK's process can't be started ({error})"
        if done.returncode < 0:
            return [], f"VTK's process died: no off-screen graphics here? {_ADVICE}"
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no reason given"]
            return [], f"VTK can't render here ({said[-1]})"
        return list(read_arrays(made).values()), None


def answer(draw: Callable[[Arrays], Images]) -> None:
    """The command's part: draws what it was handed, leaves the images."""
    asked, made = sys.argv[1:]
    images = draw(read_arrays(asked))
    write_arrays(made, {f"{i:04d}": image for i, image in enumerate(images)}, pack=False)
