"""A fill whose cells several ranks make: the lattice of one."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from small_cases import small

from micro.runtime.progress import Reporter
from multiscale.fill.stage import fill_lattice
from multiscale.run.session import Session
from multiscale.solve import ranks


def fill(source: str) -> dict:
    """A small cloak's ring filled with graded tensors; what rank 0 knows of the lattice."""
    case = small("cloak", 5)
    case = case.model_copy(update={"fill": case.fill.model_copy(update={"source": source, "candidates": 3})})
    session = Session(case, Reporter(False))
    objective, mask = session.objective, session.design_mask
    wanted = objective.reduction.elements(session.problem.tensor).copy()
    along = np.linspace(0, 1, int(mask.sum()))[:, None]
    wanted[mask] = (1 - along) * [0.10, 0.05, 0.03] + along * [0.45, 0.17, 0.15]
    filling, polish = fill_lattice(
        objective, wanted, lambda: session.cells, case.fill, session.reporter, rtol=1e-12
    )
    if filling is None:
        return {}
    lattice = filling.filled().lattice
    index = hashlib.sha256(np.ascontiguousarray(lattice.index).tobytes()).hexdigest()
    return {"lattice": [lattice.cells.digest(), index], "J": polish.values, "shared": ranks.shares_jobs()}


SCRIPT = """
import json, sys
sys.path[:0] = sys.argv[2:]
from test_ranks import fill
found = fill(sys.argv[1])
if found:
    print(json.dumps(found))
"""


@pytest.mark.parametrize("source", ["library", pytest.param("generator", marks=pytest.mark.slow)])
def test_ranks_fill_the_same_lattice(run_ranks, source):
    """Cells corrected by their parameters, and cells drawn and refined; an odd number of ranks."""
    here = Path(__file__).parent
    alone = fill(source)
    assert not alone["shared"]
    done = run_ranks(3, "-c", SCRIPT, source, here, here.parents[1], timeout=1200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shared"]
    assert found["lattice"] == alone["lattice"]
    # Solved to 1e-12; sums over ranks come in another order.
    assert found["J"] == pytest.approx(alone["J"], rel=1e-9)


def test_what_rank_0_raises_while_others_help_ends_all(run_ranks):
    # Lines are written whole: what ranks print may come between each other's.
    text = """
import sys

from micro.runtime.errors import NotConverged
from multiscale.solve.errors import RankFailed
from multiscale.solve.ranks import is_root, with_ranks

def work():
    raise NotConverged("no")

try:
    with_ranks(work)
except (NotConverged, RankFailed) as error:
    sys.stdout.write(f"{type(error).__name__} {error.exit_code}\\n")
"""
    done = run_ranks(2, "-c", text)
    assert sorted(done.stdout.splitlines()) == ["NotConverged 3", "RankFailed 3"], done.stderr
