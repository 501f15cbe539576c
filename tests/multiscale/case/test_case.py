"""Case files: what is accepted, its defaults, its schema and its way back to TOML."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from examples import MINIMAL, case_of, varied
from pydantic import BaseModel

from micro.runtime.errors import InputError
from micro.runtime.files import content_digest
from multiscale.case import boundary, case as case_module, settings, shapes
from multiscale.case.case import (
    Case,
    case_schema,
    change_of,
    changed_case,
    load_case,
    parse_case,
    schema_text,
)
from multiscale.case.tables import isotropic_tensor

CASES = sorted((Path(__file__).resolve().parents[3] / "cases").glob("*.toml"))


def test_minimal_case_has_good_defaults():
    case = case_of()
    assert case.name == "tiny"
    assert case.grid.mirror == "auto"
    assert case.base_material.poisson == 0.3
    assert case.objective.type == "displacement_distortion"
    assert case.optimizer.algorithm == "auto"
    assert (case.gamut.source, case.fill.source) == ("dataset", "dataset")
    assert case.solver.levels == "auto"
    assert case.loads[0].weight == 1.0
    assert case.loads[0].fixed[0].components == "xyz"
    assert case.export.stl_box is None


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_shipped_cases_are_valid_and_named_after_their_file(path):
    case = load_case(path)
    assert case.name == path.stem
    assert case.case.description
    assert case.file == path


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_resolved_toml_reads_back_to_the_same_case(path):
    case = load_case(path)
    again = parse_case(tomllib.loads(case.to_toml()), path)
    assert again.model_dump() == case.model_dump()


def test_resolved_toml_keeps_awkward_strings_and_nested_shapes():
    awkward = r'"He said \"cells\", a \\ and \t, é"'
    shape = """{ type = "difference", shape = { type = "all" },
        minus = [{ type = "sphere", center = [3, 2, 2], radius = 1.5 }] }""".replace("\n", "")
    named = ('name = "tiny"', f'name = "tiny"\ndescription = {awkward}')
    case = case_of(varied(named, ('{ type = "box", min = [1, 1, 0], max = [5, 3, 4] }', shape)))
    assert case.case.description == 'He said "cells", a \\ and \t, é'
    assert case_of(case.to_toml()).model_dump() == case.model_dump()


def test_digest_depends_on_what_is_computed_only():
    case = case_of()
    renamed = case_of(varied(('name = "tiny"', 'name = "other"\ndescription = "words"')))
    spelled_out = case_of(MINIMAL + "\n[filter]\nradius = 2.0\n")
    changed = case_of(MINIMAL + "\n[filter]\nradius = 3.0\n")
    assert case.digest() == renamed.digest() == spelled_out.digest()
    assert case.digest() != changed.digest()


def test_each_stage_depends_on_what_it_uses():
    plain = case_of().stage_digests()
    refilled = case_of(MINIMAL + "\n[fill]\ntolerance = 0.02\n").stage_digests()
    exported = case_of(MINIMAL + "\n[export]\nvoxels = 16\n").stage_digests()
    changed = lambda other: [stage for stage in plain if plain[stage] != other[stage]]  # noqa: E731
    assert changed(refilled) == ["fill", "full_scale", "evaluate", "export"]
    assert changed(exported) == ["export"]
    measured = case_of(MINIMAL + "\n[full_scale]\nvoxels_per_cell = 8\n").stage_digests()
    assert changed(measured) == ["full_scale", "evaluate", "export"]
    # Rounds put the first design elsewhere.
    corrected = case_of(MINIMAL + "\n[full_scale]\nvoxels_per_cell = 8\nrounds = 1\n").stage_digests()
    assert changed(corrected) == list(plain)
    assert changed(case_of(MINIMAL + "\n[filter]\nradius = 3.0\n").stage_digests()) == list(plain)


def test_digest_depends_on_what_named_files_hold(tmp_path):
    gamut = tmp_path / "mine.safetensors"
    file = tmp_path / "a.toml"
    file.write_text(MINIMAL + '\n[gamut]\nsource = "mine.safetensors"\n')
    digests = []
    for content in (b"a", b"b", b"a"):
        gamut.write_bytes(content)
        digests.append(load_case(file).digest())
    assert digests[0] == digests[2] != digests[1]
    store = tmp_path / "cells.zarr"
    (store / "c").mkdir(parents=True)
    (store / "c" / "0").write_bytes(b"x")
    one = content_digest(store)
    (store / "c" / "0").write_bytes(b"y")
    assert content_digest(store) != one
    assert content_digest(tmp_path / "none") == ""


def test_packaged_cells_have_one_base_material():
    stiffness = "young_modulus_mpa = 1000.0"
    with pytest.raises(InputError, match="packaged cells are homogenised") as caught:
        case_of(varied((stiffness, f"{stiffness}\npoisson = 0.42")))
    assert caught.value.key == "base_material.poisson"


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ('[fill]\nsource = "generator"\n[objective]\ntype = "compliance"\nmass_limit = 0.3', "fill.source"),
        (
            '[fill]\nsource = "dataset+generator"\n[objective]\ntype = "compliance"\nmass_limit = 0.3',
            "fill.source",
        ),
        ("[export]\nvoxels = 5", "export.voxels"),
    ],
)
def test_cells_that_can_not_serve_are_refused_at_once(tables, key):
    text = MINIMAL.replace('[objective]\nobserve = ["block"]\nreference = "soft"\n', "")
    if "[objective]" not in tables:
        text = MINIMAL
    with pytest.raises(InputError) as caught:
        case_of(text + "\n" + tables + "\n")
    assert caught.value.key == key


def test_tensors_by_material_name():
    case = case_of()
    assert case.tensor_of("soft") == (0.3, 0.1, 0.09)
    assert case.tensor_of("iso") == pytest.approx(isotropic_tensor(0.2, 0.25))
    assert case.tensor_of("solid") == pytest.approx((1.3461538, 0.5769231, 0.3846154), abs=1e-7)


def test_paths_are_relative_to_the_case_file(tmp_path):
    (tmp_path / "mine.gamut").touch()
    file = tmp_path / "a.toml"
    file.write_text(MINIMAL + '\n[gamut]\nsource = "mine.gamut"\n')
    case = load_case(file)
    assert case.path(case.gamut.source) == tmp_path / "mine.gamut"


def test_a_face_may_be_written_short_or_as_a_table():
    short = case_of()
    table = case_of(varied(('where = "y-"', 'where = { face = "y-" }')))
    assert short.model_dump() == table.model_dump()


def test_integers_serve_as_numbers_but_booleans_and_strings_do_not():
    assert case_of(varied(("cell_size_mm = 2.0", "cell_size_mm = 2"))).grid.cell_size_mm == 2.0
    for wrong in ("true", '"2"', "[2]"):
        with pytest.raises(InputError, match=r"grid\.cell_size_mm"):
            case_of(varied(("cell_size_mm = 2.0", f"cell_size_mm = {wrong}")))


def test_several_mistakes_are_counted():
    text = varied(
        ("cell_size_mm = 2.0", "cell_size_mm = -1"), ("young_modulus_mpa = 1000.0", 'poisson = "x"')
    )
    with pytest.raises(InputError, match=r"and 2 more to mend") as caught:
        case_of(text)
    assert caught.value.key == "grid.cell_size_mm"


# ------------------------------------------------------------------ schema
def test_exported_schema_is_current(root):
    text = (root / "docs" / "case.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(schema_text()), "run: multiscale schema --out docs/case.schema.json"


def tables() -> list[type[BaseModel]]:
    found = []
    for module in (case_module, boundary, settings, shapes):
        for item in vars(module).values():
            if (
                isinstance(item, type)
                and issubclass(item, shapes.Table)
                and item.__module__ == module.__name__
            ):
                found.append(item)
    return found


@pytest.mark.parametrize("table", tables(), ids=lambda t: t.__name__)
def test_every_key_is_documented(table):
    assert table.__doc__
    sections = set(Case.model_fields)
    for name, field in table.model_fields.items():
        if name == "type" and issubclass(table, shapes.Shape):
            continue  # the table's own description is the type's
        assert field.description or (table is Case and name in sections), f"{table.__name__}.{name}"


def test_no_table_takes_unknown_keys():
    schema = case_schema()
    for name, definition in schema["$defs"].items():
        if definition.get("type") == "object":
            assert definition["additionalProperties"] is False, name
    assert schema["additionalProperties"] is False


def test_schema_names_the_choices():
    definitions = json.loads(schema_text())["$defs"]
    assert definitions["Region"]["properties"]["role"]["enum"] == ["void", "design", "fixed"]
    assert {"const": "auto"} in definitions["SolverSettings"]["properties"]["levels"]["anyOf"]
    where = definitions["Support"]["properties"]["where"]["anyOf"]
    assert any("enum" in choice for choice in where), "a face may be written as a word"


def test_format_page_names_every_key(root):
    """The reader's page can't fall behind the models."""
    page = (root / "docs" / "case-format.md").read_text(encoding="utf-8")
    for table in tables():
        for name in table.model_fields:
            assert f"`{name}`" in page or f"`[{name}]`" in page or f"`[[{name}]]`" in page, (
                table.__name__,
                name,
            )


def test_examples_on_the_format_page_are_valid(root):
    page = (root / "docs" / "case-format.md").read_text(encoding="utf-8")
    whole = [block for block in page.split("```toml\n")[1:] if block.startswith("[case]")]
    assert whole
    for block in whole:
        case_of(block.split("```")[0])
        tomllib.loads(block.split("```")[0])


def places(data, path=()):
    """Every key and entry of a case, as the path to it."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_whatever_is_wrong_is_said_in_one_line_with_file_and_key():
    """Every key of a case given values of other kinds, and left out: an error names it, or what misses it."""
    given = tomllib.loads(MINIMAL)
    refused = 0
    for path in places(given):
        for value in ("wrong", -1, 1e99, [], {}, True, float("nan"), [1, 2], "", None):
            data = tomllib.loads(MINIMAL)
            table = data
            for key in path[:-1]:
                table = table[key]
            if value is None:
                del table[path[-1]]
            else:
                table[path[-1]] = value
            key, said = refusal_of(data)
            if not said:
                continue
            refused += 1
            assert said.startswith("case.toml: "), said
            assert key, said
            assert "\n" not in said
            if value not in ({}, [], None):
                assert "(got " in said or "Allowed" in said, said
    assert refused > 300


def refusal_of(data):
    """Key and line of the error, empty where there is none."""
    try:
        parse_case(data, "case.toml")
    except InputError as error:
        return error.key, str(error)
    return "", ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[6, 4, 4]", "[6, 4]", "case.toml: grid.elements: must be a list of 3, not of 2 (got [6, 4])"),
        (
            '"tiny"',
            '"2 cells"',
            "case.toml: case.name: must be a name: a letter, then letters, digits, - or _ (got '2 cells')",
        ),
        (
            '{ type = "all" }',
            '{ type = "halfspace", point = [0, 0, 0], normal = [0, 0, 0] }',
            "regions[0].shape.normal: the normal must not be zero (got [0.0, 0.0, 0.0])",
        ),
    ],
)
def test_what_is_allowed_is_said_in_plain_words(old, new, said):
    with pytest.raises(InputError) as error:
        parse_case(tomllib.loads(varied((old, new))), "case.toml")
    assert said in str(error.value)


# --------------------------------------------------------------------- changes
@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("fill.source=generator", ("fill.source", "generator")),
        ("fill.source = 'a b.zarr'", ("fill.source", "a b.zarr")),
        ("grid.elements=[4, 4, 2]", ("grid.elements", [4, 4, 2])),
        ("fill.overlap=0.5", ("fill.overlap", 0.5)),
        ("regions=a=b", ("regions", "a=b")),
    ],
)
def test_a_change_reads_as_in_a_case_file(text, change):
    assert change_of(text) == change


@pytest.mark.parametrize("text", ["fill.source", "=1", "fill.source=", ""])
def test_a_change_without_key_or_value_is_refused(text):
    with pytest.raises(InputError, match=r"--set: is written TABLE\.KEY=VALUE"):
        change_of(text)


def test_a_changed_case_is_the_case_with_other_values():
    case = case_of()
    changed = changed_case(case, {"fill.source": "generator", "base_material.density_kg_m3": 1180.0})
    assert changed.fill.source == "generator"
    assert changed.base_material.density_kg_m3 == 1180.0
    assert case.fill.source == "dataset"  # which is left as it is
    back = changed_case(changed, {"fill.source": None, "base_material.density_kg_m3": None})
    assert back.digest() == case.digest()
    assert changed_case(case, {}) is case


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("fill.sauce", "generator", r"fill\.sauce"),
        ("fill.source", "nowhere", r"fill\.source: must be 'dataset'"),
        ("loads.weight", 2.0, r"loads\.weight: 'loads' is no table"),
        ("fill.source.name", "x", r"fill\.source\.name: 'source' is no table"),
        ("nothing", 1, "nothing"),
        ("loads[0].weight", 2.0, r"loads\[0\]\.weight: what stands in an array of tables"),
    ],
)
def test_a_change_that_is_not_allowed_names_its_key(key, value, reason):
    with pytest.raises(InputError, match=reason):
        changed_case(case_of(), {key: value})
