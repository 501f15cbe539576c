"""What every command does: one line for what a user can mend, one rank that talks, one console."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from micro.runtime.errors import InputError, NotConverged, file_error
from micro.runtime.executor import rank
from multiscale.solve.errors import RankFailed

if TYPE_CHECKING:
    from rich.console import Console

    from micro.runtime.progress import Reporter, Style


class Commands(TyperGroup):
    """The commands: what a user can mend becomes one line on stderr and an exit code (:func:`reporting`)."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with reporting(lambda: f"multiscale {ctx.invoked_subcommand}"):
            return super().invoke(ctx)


_RESUMED = ("multiscale run",)
"""Commands that go on where an interrupted one stopped."""


@contextmanager
def reporting(command: Callable[[], str]) -> Iterator[None]:
    """Turn the errors a user can mend into one line on stderr and an exit code.

    Under MPI every rank meets the same error; the first one speaks. ``command`` is asked for its name when it
    was interrupted.
    """
    try:
        yield
    except InputError as error:
        _say(f"error: {error}")
        raise typer.Exit(error.exit_code) from None
    except RankFailed as error:  # the first rank says why
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our output has gone: no mistake of anybody's
        raise
    except OSError as error:
        _say(f"error: {file_error(error)}")
        raise typer.Exit(InputError.exit_code) from None
    except NotConverged as error:
        _say(f"error: {' '.join(str(error).split())}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        hint = "; the same command goes on where it stopped" if command() in _RESUMED else ""
        _say(f"{command()}: interrupted{hint}")
        raise typer.Exit(130) from None


def first_rank() -> bool:
    """Whether this process does the talking."""
    return rank() == 0


def _say(text: str) -> None:
    if first_rank():
        sys.stderr.write(text + "\n")


def reporter(style: Style = "text") -> Reporter:
    """What shows a command's progress; on ranks other than the first it says nothing."""
    from micro.runtime.progress import Reporter

    return Reporter(first_rank(), style)


def console() -> Console:
    """Standard output, in colour where it is a terminal."""
    from rich.console import Console

    return Console(highlight=False)
