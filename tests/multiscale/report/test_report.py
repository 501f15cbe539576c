"""The report: it fetches nothing, its data are the run's, and a directory that is no run is refused."""

from __future__ import annotations

import base64
import json
import re
import tomllib
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from examples import MINIMAL
from lattices import make, octants
from run_directories import made_up_run

from micro.cell.chamber import pack, unpack
from micro.runtime.errors import InputError
from multiscale.case.case import parse_case
from multiscale.lattice.lattice import coarsen
from multiscale.problem.problem import build_problem
from multiscale.report import viewer as report_scene
from multiscale.report.page import write_report
from multiscale.report.viewer import Field, least_contact, local_distortion, quantised, run_fields, scene
from multiscale.rundir.directory import RunDirectory


class Page(HTMLParser):
    """Addresses and texts of a page; a tag closed out of order fails."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.scripts, self.text = [], [], {}, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1]] = self.scripts.get(self.open[-1][1], "") + data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def case():
    data = tomllib.loads(MINIMAL)
    data["case"]["description"] = "A </script><b>bold</b> & quiet case."
    return data


@pytest.fixture(scope="module")
def run(case, tmp_path_factory):
    path = made_up_run(tmp_path_factory.mktemp("runs") / "one", case)
    write_report(path)
    return RunDirectory.open(path)


@pytest.fixture(scope="module")
def page(run):
    return Page((run.path / "report.html").read_text(encoding="utf-8"))


def bytes_of(text):
    return zlib.decompress(base64.b64decode(text))


def field_values(field, shape):
    byte = np.frombuffer(bytes_of(field["data"]), np.uint8).reshape(shape).astype(float)
    place = (byte - 1) / 254
    low, high = field["low"], field["high"]
    values = low * (high / low) ** place if field["log"] else low + place * (high - low)
    return np.where(byte > 0, values, np.nan)


def test_the_page_is_one_file(page, run):
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    everything = (run.path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//[a-z]+\.|\bimport\s*\(|@import|url\(", everything)
    assert set(page.scripts) == {"scene", None}
    assert "bold" not in [tag for tag, _ in page.open]
    assert any("A </script><b>bold</b> & quiet case." in text for text in page.text)


def test_numbers_of_the_metrics_stand_in_the_page(page):
    text = " ".join(page.text)
    for wanted in (
        "30 %",
        "2.5 %",
        "as built, homogenised: 10 times less",
        "violations of the gamut",
        "seed, fill",
    ):
        assert wanted in text


def test_the_view_gets_the_lattice_as_it_is(page, run):
    data = json.loads(page.scripts["scene"])
    lattice = run.lattice
    index = np.frombuffer(bytes_of(data["index"]), "<u4").reshape(lattice.shape).astype(int) - 1
    assert np.array_equal(index, lattice.index)
    n = data["n"]
    assert n == lattice.cells.n
    packed = np.frombuffer(bytes_of(data["octants"]), np.uint8).reshape(data["cells"], -1)
    assert np.array_equal(unpack(packed, n), lattice.cells.octants())
    assert data["solid"] == lattice.solid.sum()
    fields = {field["name"]: field for field in data["fields"]}
    for i, name in enumerate(("C11", "C12", "C44")):
        field = fields[f"{name}, designed"]
        shown = field_values(field, lattice.shape)
        assert np.array_equal(np.isnan(shown), ~lattice.solid)
        # Rounded to one of 254 steps of the range, so at most half a step off.
        half = 0.5001 * (field["high"] - field["low"]) / 254
        assert np.abs(shown - run.design[..., i])[lattice.solid].max() <= half


def test_local_distortion_is_the_distortion_cut_into_elements(case):
    problem = build_problem(parse_case(case))
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(*(n + 1 for n in problem.shape), 3))
    local = local_distortion(1.1 * reference, reference, problem)
    assert np.array_equal(np.isnan(local), ~problem.observed)
    i, j, k = np.argwhere(problem.observed)[0]
    corners = np.linalg.norm(reference[i : i + 2, j : j + 2, k : k + 2], axis=-1)
    rms = np.sqrt((reference[problem.observed_nodes] ** 2).sum(-1).mean())
    assert local[i, j, k] == pytest.approx(0.1 * corners.mean() / rms, rel=1e-12)


def test_least_contact_against_every_pair():
    lattice = make(np.random.default_rng(1).integers(-1, 6, size=(3, 2, 4)))
    faces = octants()[:, 0]
    found = least_contact(lattice)
    for place in np.ndindex(lattice.shape):
        areas = []
        for axis in range(3):
            for step in (-1, 1):
                other = np.array(place)
                other[axis] += step
                inside = (other >= 0).all() and (other < lattice.shape).all()
                if inside and min(lattice.index[place], lattice.index[tuple(other)]) >= 0:
                    areas.append((faces[lattice.index[place]] & faces[lattice.index[tuple(other)]]).mean())
        # Areas are kept in float32.
        assert found[place] == pytest.approx(min(areas), rel=1e-6) if areas else np.isnan(found[place])


def test_quantised_logarithms_and_constants():
    solid = np.array([[[True, True, True, False]]])
    field = quantised(Field("f", np.array([[[1e-3, 1.0, -1.0, 5.0]]]), log=True), solid)
    shown = field_values(field, solid.shape)[0, 0]
    assert shown[:2] == pytest.approx([1e-3, 1.0])
    assert np.isnan(shown[2:]).all()
    constant = quantised(Field("f", np.full((1, 1, 4), 0.25)), solid)
    assert field_values(constant, solid.shape)[0, 0, :3] == pytest.approx([0.25] * 3)
    nothing = quantised(Field("f", np.full((1, 1, 4), np.nan)), solid)
    assert np.isnan(field_values(nothing, solid.shape)).all()


def test_many_cells_are_sent_coarser(run, monkeypatch):
    stack = np.repeat(np.repeat(np.repeat(octants(), 2, 1), 2, 2), 2, 3)  # n = 12
    lattice = make(run.lattice.index, run.problem.cell_size_m, stack)
    monkeypatch.setattr(report_scene, "OCTANT_BYTES", 6 * pack(stack).shape[1] - 1)
    data = scene(run.problem, lattice, run_fields(run.problem, lattice, run.design, run.displacements))
    assert (data["n"], data["voxels"]) == (6, 24)
    packed = np.frombuffer(bytes_of(data["octants"]), np.uint8).reshape(6, -1)
    assert np.array_equal(unpack(packed, 6), coarsen(stack, 12))


def test_the_worst_load_of_a_space_is_said_and_shown(case, tmp_path):
    path = made_up_run(tmp_path / "any", case)
    (path / "figures" / "worst_load.png").write_bytes((path / "figures" / "design.png").read_bytes())
    run = RunDirectory.open(path)
    worst = {"worst_load": {"stress_xx": -0.984, "stress_yy": 1.0, "stress_zz": 0.001}}
    found = {"worst": 0.0861, "mean_square": 0.07, "principal": [0.0861, 0.05]} | worst
    run.add("any_load", {"lattice": found}, files=("figures/worst_load.png",))
    write_report(path)
    text = (path / "report.md").read_text(encoding="utf-8")
    assert "| which it is, as built | 1.00 stress_yy - 0.98 stress_xx |" in text
    assert "| worst combination, as built | 8.61 % |" in text
    assert "| principal combinations, as built | 8.61 %, 5 % |" in text
    assert "in space, deformed: 1.00 stress_yy - 0.98 stress_xx.](figures/worst_load.png)" in text


def test_markdown_links_figures_that_exist(run):
    text = (run.path / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert sorted(links) == ["figures/convergence.png", "figures/convergence.svg", "figures/design.png"]
    assert all((run.path / link).is_file() for link in links)
    assert "| with the cells as built | 3 % |" in text


def test_what_is_no_run_is_refused(tmp_path, case, run_cli):
    with pytest.raises(InputError, match=r"no run\.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="not a run's record"):
        write_report(tmp_path)
    RunDirectory.create(tmp_path / "new", parse_case(tomllib.loads(MINIMAL)))
    with pytest.raises(InputError, match="stage evaluate is not done: `multiscale run"):
        write_report(tmp_path / "new")
    done = run_cli("multiscale", "report", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such run directory" in done.stderr
    assert not (tmp_path / "report.html").exists()
