"""What numba keeps of a kernel is made anew when another file's kernel, compiled into it, changes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

INNER = "from micro.voxels.compilation import njit\n\n\n@njit\ndef weight():\n    return {}\n"
OUTER = """from inner_kernels import weight

from micro.voxels.compilation import njit


@njit(cache=True)
def twice():
    return 2 * weight()


print(twice(), sum(twice.stats.cache_hits.values()))
"""


def test_every_kernel_is_compiled_by_it(root):
    files = [f for package in ("micro", "multiscale") for f in (root / package).rglob("*.py")]
    using = [f.name for f in files if re.search(r"^(from|import) numba", f.read_text("utf-8"), re.MULTILINE)]
    assert using == ["compilation.py"]


def test_an_edit_of_another_kernel_file_is_seen(root, tmp_path):
    (tmp_path / "outer_kernels.py").write_text(OUTER, encoding="utf-8")

    def run(value):
        (tmp_path / "inner_kernels.py").write_text(INNER.format(value), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": f"{root}:{tmp_path}"}
        line = [sys.executable, "outer_kernels.py"]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert run(3) == ["6", "0"]
    assert run(3) == ["6", "1"]
    assert run(4) == ["8", "0"]
