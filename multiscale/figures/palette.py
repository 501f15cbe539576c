"""Colours of roles, loads and supports in every drawing of a problem."""

from __future__ import annotations

from multiscale.problem.problem import Problem, Role

FIXED_COLOURS = ("#d5d9e0", "#b9c0cb", "#9aa4b2", "#7f8a9a")
DESIGN_COLOURS = ("#2f7fb5", "#3aa794", "#7d6bb0", "#88a83a")
VOID_COLOUR = "#ffffff"
SUPPORT_COLOUR = "#3c4654"
FORCE_COLOUR = "#d1373f"
MOVE_COLOUR = "#e08a1e"
MIRROR_COLOUR = "#8b5fbf"
ARROWS = 9
"""Arrows along a face, about."""


def region_colours(problem: Problem) -> list[str]:
    """One colour per region: greys for fixed ones, colours for designs, white for void."""
    role_of = region_roles(problem)
    seen = {role: 0 for role in Role}
    colours = []
    for role in role_of:
        palette = {Role.FIXED: FIXED_COLOURS, Role.DESIGN: DESIGN_COLOURS, Role.VOID: (VOID_COLOUR,)}[role]
        colours.append(palette[seen[role] % len(palette)])
        seen[role] += 1
    return colours


def region_roles(problem: Problem) -> list[Role]:
    """The role of every region that stands somewhere on the grid."""
    return [Role(int(problem.role[problem.region == i][0])) for i in range(len(problem.region_names))]
