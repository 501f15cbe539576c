"""What a run says: JSON lines that a program can read, and nothing when quiet."""

from __future__ import annotations

import json

import pytest

from micro.runtime.errors import InputError
from micro.runtime.progress import Reporter
from multiscale.design import board


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


def record(count):
    load = {"pull": 0.1 / count}
    return {
        "stage": 1,
        "kind": "evaluation",
        "evaluation": count,
        "count": count,
        "distortion": 1 / count,
        "per_load": load,
    }


def test_tensorboard_shows_one_curve_after_a_restart(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with board.open_board(tmp_path, []) as write:
        write(record(1))
        write(record(2))
    with board.open_board(tmp_path, [record(1), record(2)]) as write:
        write(record(3))
    events = EventAccumulator(str(tmp_path / board.FOLDER))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"design/stage", "design/distortion", "loads/pull"}
    curve = events.Scalars("design/distortion")
    assert [e.step for e in curve] == [1, 2, 3]
    assert [e.value for e in curve] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [e.value for e in events.Scalars("loads/pull")] == pytest.approx([0.1, 0.05, 0.1 / 3])


def test_a_board_of_a_design_that_is_done(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "history.jsonl").write_text("".join(json.dumps(record(k)) + "\n" for k in (1, 2, 3)))
    board.write_history(tmp_path)
    events = EventAccumulator(str(tmp_path / board.FOLDER))
    events.Reload()
    assert [e.step for e in events.Scalars("design/distortion")] == [1, 2, 3]


def test_no_board_keeps_nothing(tmp_path):
    with board.open_board(None, []) as write:
        write(record(1))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_said(monkeypatch):
    board.check()
    monkeypatch.setattr(board, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        board.check()
