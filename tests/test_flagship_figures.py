"""What the pages say of the flagship is what its last run gave (`benchmarks/flagship.py`)."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN = json.loads((ROOT / "benchmarks" / "results" / "cloak.json").read_text(encoding="utf-8"))
_spec = importlib.util.spec_from_file_location("flagship", ROOT / "benchmarks" / "flagship.py")
flagship = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(flagship)


@pytest.mark.parametrize(("page", "text"), list(flagship.quotes(RUN)))
def test_pages_quote_the_last_run(page, text):
    assert text in (ROOT / page).read_text(encoding="utf-8")


def test_new_figures_go_into_the_pages(tmp_path, monkeypatch):
    for page, _ in flagship.quotes(RUN):
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_bytes((ROOT / page).read_bytes())
    monkeypatch.setattr(flagship, "ROOT", tmp_path)
    new = json.loads(json.dumps(RUN))
    new["full_scale"]["distortion"] = 0.0123
    new["time"]["total"] = 432.1
    assert flagship.update(RUN, new) == []
    for page, text in flagship.quotes(new):
        assert text in (tmp_path / page).read_text(encoding="utf-8")
    assert len(flagship.update(RUN, new)) > 1  # the old ones are gone


def test_the_last_run_is_what_was_asked_for():
    assert RUN["full_scale"]["distortion"] <= 0.02
    assert RUN["feasibility"]["violations"] == 0
    assert RUN["cells"]["disconnected"] == RUN["interfaces"]["unconnected"] == 0
    assert RUN["lattice"]["components"] == 1
