"""What a run says: JSON lines that a program can read, and nothing when quiet."""

from __future__ import annotations

import json

import pytest

from multiscale.progress import Reporter


def spoken(reporter: Reporter) -> None:
    reporter.say("[bold]fill[/bold]: 3 cells")
    with reporter.task("design", 4) as task:
        task.advance(1, "stage 0", {"distortion": 0.25, "kind": "evaluation", "seconds": 1e9})
        task.advance(3)
    reporter.event("result", {"metrics": {"ranks": 1}})


def test_json_lines(capsys):
    spoken(Reporter(style="json"))
    out = capsys.readouterr()
    message, first, last, result = (json.loads(line) for line in out.out.splitlines())
    assert out.err == ""
    assert (message["event"], message["text"]) == ("message", "fill: 3 cells")
    assert (first["event"], first["task"], first["done"], first["total"]) == ("progress", "design", 1, 4)
    assert (first["distortion"], first["kind"], first["detail"]) == (0.25, "evaluation", "stage 0")
    assert first["seconds_left"] >= 0
    assert first["seconds"] < 1e9  # since the start, not the record's own clock
    assert last["done"] == 4
    assert "seconds_left" not in last
    assert (result["event"], result["metrics"]) == ("result", {"ranks": 1})


@pytest.mark.parametrize("reporter", [{"style": "quiet"}, {"verbose": False, "style": "json"}])
def test_quiet_and_other_ranks_say_nothing(capsys, reporter):
    spoken(Reporter(**reporter))
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


def test_both_styles_at_once_are_refused(run_cli, tmp_path):
    done = run_cli(
        "multiscale", "run", tmp_path / "no.toml", "--out", tmp_path / "o", "--quiet", "--json-lines"
    )
    assert done.returncode == 2
    assert "not both" in done.stderr
