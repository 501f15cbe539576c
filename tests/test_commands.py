"""What the two commands have in common: one line for what a user can mend, and commands printed that work."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import typer
from examples import MINIMAL
from lattices import mixed
from typer.main import get_command
from typer.testing import CliRunner

import micro.cli.main
import multiscale.cli.main
import multiscale.cli.shell
from micro.runtime.errors import InputError
from micro.runtime.files import check_writable
from micro.runtime.version import own_version

ROOT = Path(__file__).resolve().parents[1]
APPS = {"micro": micro.cli.main.app, "multiscale": multiscale.cli.main.app}
COMMANDS = {name: get_command(app) for name, app in APPS.items()}


def run(capsys, monkeypatch, *words):
    """Exit code and output of a command, in this process."""
    command = sys.modules[f"{words[0]}.cli.main"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code or 0, capsys.readouterr()


def leaves(command, words=()):
    """Every command below one that has some, with the words that call it."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, below in command.commands.items():
        yield from leaves(below, (*words, name))


# ---------------------------------------------------------------------- files
@pytest.mark.parametrize(
    "words",
    [
        ("multiscale", "run", ROOT / "cases" / "cloak_small.toml", "--out", "plain/run"),
        ("multiscale", "evaluate", "no.toml", "--tensors", "no.npz", "--out", "plain/run"),
        ("multiscale", "export", "runs/none", "--out", "plain/part.stl"),
        ("multiscale", "schema", "--out", "plain/schema.json"),
        ("multiscale", "new", "mine", "--out", "plain/mine.toml"),
        ("micro", "generate", "--volume", "0.3", "--out", "plain/cells"),
        ("micro", "optimize", "--objective=bulk", "--volume=0.3", "--n=8", "--out", "plain/cell"),
    ],
)
def test_a_result_below_a_file_is_refused_in_one_line(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("x")
    code, said = run(capsys, monkeypatch, *words)
    assert code == 2, said.err
    assert re.fullmatch(r"error: .*plain.*\n", said.err)
    assert [p.name for p in tmp_path.iterdir()] == ["plain"]


def test_a_full_disk_is_told_by_file_and_reason(capsys, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "cells.npz")
    with pytest.raises(typer.Exit) as ended, multiscale.cli.shell.reporting(lambda: "multiscale run"):
        raise full
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "error: cells.npz: No space left on device\n"

    def fail(*arguments, **options):
        raise full

    monkeypatch.setattr("micro.cell.readers.read_voxels", fail)
    code, said = run(capsys, monkeypatch, "micro", "homogenize", "cell.npy")
    assert (code, said.err) == (2, "error: cells.npz: No space left on device\n")


def test_a_reader_that_has_gone_is_no_error_of_input(capsys):
    """`multiscale ... | head` must not say that a file can't be written."""
    with pytest.raises(BrokenPipeError), multiscale.cli.shell.reporting(lambda: "multiscale run"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert capsys.readouterr().err == ""


def test_where_a_directory_can_be_made(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b", "--out")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match=rf"--out: .*no permission in {re.escape(str(tmp_path))}"):
        check_writable(tmp_path / "a" / "b", "--out")


# ------------------------------------------------------------------- the rest
def test_interrupted(monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("micro.cell.readers.read_voxels", interrupt)
    code, said = run(capsys, monkeypatch, "micro", "homogenize", "cell.npy")
    assert (code, said.err) == (130, "micro: interrupted\n")


@pytest.mark.parametrize("name", APPS)
def test_version(name):
    assert own_version() is not None
    done = CliRunner().invoke(APPS[name], ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"{name} {own_version()}\n")


def test_no_seed_is_negative():
    seeded = [
        (app, words)
        for name, app in APPS.items()
        for words, command in leaves(COMMANDS[name])
        if any("--seed" in option.opts for option in command.params)
    ]
    assert len(seeded) >= 5
    for app, words in seeded:
        done = CliRunner().invoke(app, [*words, "--seed=-1"])
        assert done.exit_code == 2
        assert "'--seed'" in done.output, words  # said before any option that is missing


def test_help_of_micro_names_every_command():
    text = COMMANDS["micro"].help
    for words, _ in leaves(COMMANDS["micro"]):
        assert f"`{words[0]}" in text, words


# ------------------------------------------------------- what users write is no markup
def test_brackets_in_a_case_and_in_paths(tmp_path, monkeypatch):
    """Rich reads [/x] as the end of a style and refuses one that never began."""
    monkeypatch.chdir(tmp_path)
    case = MINIMAL.replace("[case]\n", '[case]\ndescription = "a cloak [/x] of [bold]steel"\n', 1)
    assert case != MINIMAL
    Path("case.toml").write_text(case, encoding="utf-8")
    done = CliRunner().invoke(APPS["multiscale"], ["check", "case.toml", "--out", "d[/b]"])
    assert done.exit_code == 0, done.output
    assert "a cloak [/x] of [bold]steel" in done.stdout
    assert "d[/b]/problem.png" in done.stdout
    mixed().save("lattice.zarr")
    done = CliRunner().invoke(APPS["multiscale"], ["export", "lattice.zarr", "--out", "a[/b].vtu"])
    assert done.exit_code == 0, done.output
    assert "a[/b].vtu: " in done.stdout
    Path("c[").mkdir()
    np.save("c[/x].npy", np.ones((2, 2, 2), dtype=bool))
    done = CliRunner().invoke(APPS["micro"], ["homogenize", "c[/x].npy"])
    assert done.exit_code == 0, done.output
    assert "c[/x].npy: " in done.stdout


# ---------------------------------------------------------- commands in pages
def printed_commands(text):
    """Command lines in a page's indented and fenced blocks, as words; comments, prompts, pipes taken off."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^(?: {4}|\t)(.*)$", text, re.MULTILINE)
    for line in "\n".join([*lines, *blocks]).replace("\\\n", " ").splitlines():
        start = r"\s*(?:\$ )?(?:\w+=\S+ |mpiexec -n \S+ |nice )*(?:\S*/)?(?=(?:micro|multiscale) )"
        if found := re.match(start, line):
            # Brackets say that an option may be left out: with it the line must work.
            plain = re.sub(r"\[(-[^\]]*)\]", r"\1", line[found.end() :])
            words = shlex.split(plain, comments=True)
            ends = [i for i, word in enumerate(words) if word in ("&&", "|", ">", ";")]
            yield words[: ends[0] if ends else None]


def parse(words):
    """Read a command line as the command itself would, without doing it; capitals stand for a value."""
    command, context, rest = COMMANDS[words[0]], None, words[1:]
    while hasattr(command, "commands"):
        context = command.make_context(words[0], list(rest), parent=context)
        rest = [*context._protected_args, *context.args]
        _, command, rest = command.resolve_command(context, rest)
    # 1 is a number, and might be a file's name.
    rest = [re.sub(r"^((?:--[\w-]+=)?)[A-Z][A-Z0-9_]*$", r"\g<1>1", word) for word in rest]
    with suppress(typer.Exit):  # --help, --version
        command.make_context(" ".join(words), rest, parent=context)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PRINTED = [(p.name, words) for p in PAGES for words in printed_commands(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "words"), PRINTED, ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_a_command_in_the_pages_is_one(page, words):
    parse(words)


def test_pages_are_read():
    """The test above would catch what it is for, and sees the pages."""
    assert {"README.md", "tutorial.md", "dataset.md", "generator.md", "export.md"} <= {p for p, _ in PRINTED}
    text = (
        "    $ OMP_NUM_THREADS=1 .venv/bin/micro active \\\n      --round N [--count M] | cat  # and so on\n"
    )
    assert list(printed_commands(text)) == [["micro", "active", "--round", "N", "--count", "M"]]
    parse(["micro", "active", "--round", "N", "--count=M"])
    for wrong in (
        "micro dataset build",
        "micro generate --out DIR --speed 3",
        "multiscale explain",
        "micro train",
    ):
        with pytest.raises(Exception, match=r"[Mm]issing|No such"):
            parse(shlex.split(wrong))


@pytest.mark.parametrize("package", ["micro", "multiscale"])
def test_output_that_an_encoding_lacks_is_replaced(tmp_path, package):
    """``PYTHONIOENCODING`` or a locale of ASCII or Latin-1: a name with other letters is no traceback."""
    np.save(tmp_path / "\u017elut\u00fd.npy", np.tile(np.array([0, 255], np.uint8), (4, 4, 2)))
    asked = {
        "micro": ["homogenize", "\u017elut\u00fd.npy"],
        "multiscale": ["new", "bar", "--template", "morph", "--out", "\u017elut\u00fd.toml"],
    }[package]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", package, *asked],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "?lut?." in done.stdout
