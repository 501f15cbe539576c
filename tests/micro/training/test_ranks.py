"""Training on two processes (gloo): the batch is the whole one, so losses are those of one process."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_model import SMALL, small_data

from micro.runtime.errors import InputError
from micro.training import phases, pipeline, ranks

SETTINGS = replace(SMALL, samples=63 * 40, surrogate_samples=63 * 40, batch=63)  # an odd share for each


def run(folder: Path, stop_at: int | None = None) -> list[dict]:
    """Train in float32, reporting every step; the last lines until stopped after a step of the denoiser."""
    lines: list[dict] = []

    def report(line):
        lines.append(line)
        if line["phase"] == "denoiser" and line["step"] == stop_at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "precision", lambda device: nullcontext())
        patch.setattr(phases, "_PAUSES", {"surrogate": 0.0, "denoiser": 0.0})
        patch.setattr(pipeline, "_figures", lambda *_: {"phase": "check"})
        patch.setattr(pipeline, "save_training", lambda *_: None)
        pipeline.train(small_data(40), folder, SETTINGS, report=report)
    return lines


def losses(lines: list[dict], phase: str) -> torch.Tensor:
    return torch.tensor([[line["loss"], line["validation"]] for line in lines if line["phase"] == phase])


SCRIPT = """
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_ranks import run
folder = Path(sys.argv[1])
whole, rest = run(folder / "two"), run(folder / "begun")
from micro.training import ranks
if ranks.rank() == 0:
    (folder / "lines.json").write_text(json.dumps([whole, rest]))
"""


def test_two_processes_learn_as_one_and_go_on_from_its_checkpoint(run_torch, tmp_path):
    alone = run(tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "begun", stop_at=17)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = Path(__file__)
    done = run_torch(2, script, tmp_path, here.parent, here.parents[2])
    assert done.returncode == 0, done.stderr
    whole, rest = json.loads((tmp_path / "lines.json").read_text())
    mine = losses(alone, "denoiser")
    assert mine.shape == (40, 2)
    assert mine[-5:, 1].mean() < mine[:5, 1].mean()  # it learns
    # Sums of float32 in another order, through 40 steps of Adam; lines are rounded to 1e-5.
    torch.testing.assert_close(losses(whole, "denoiser"), mine, rtol=1e-3, atol=2e-5)
    assert [line["step"] for line in rest if line["phase"] == "denoiser"] == list(range(18, 41))
    torch.testing.assert_close(losses(rest, "denoiser"), mine[17:], rtol=1e-3, atol=2e-5)
    # The surrogate's dropout is each process's own: losses agree as those of two draws do.
    torch.testing.assert_close(
        losses(whole, "surrogate")[-10:].mean(0), losses(alone, "surrogate")[-10:].mean(0), rtol=0.1, atol=0
    )


def test_shares_make_up_the_batch(monkeypatch):
    for count in (1, 2, 3, 5):
        monkeypatch.setattr(ranks, "world", lambda count=count: count)
        rows, weights = [], []
        for number in range(count):
            monkeypatch.setattr(ranks, "rank", lambda number=number: number)
            mine = list(range(7))[ranks.share(7)]
            rows += mine
            weights.append(ranks.weight(7) * sum(mine) / len(mine))
        assert sorted(rows) == list(range(7))
        assert sum(weights) / count == pytest.approx(3)
    monkeypatch.setattr(ranks, "world", lambda: 8)
    with pytest.raises(InputError, match="each of 8"):
        ranks.share(7)
