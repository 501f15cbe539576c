from .case import Case as Case, load_case as load_case
from .lattice import Block as Block, Lattice as Lattice
from .objective import (
    ComplianceObjective as ComplianceObjective,
    DistortionObjective as DistortionObjective,
    Objective as Objective,
    TargetObjective as TargetObjective,
)
from .problem import (
    Problem as Problem,
    build_problem as build_problem,
    load_tensors as load_tensors,
    save_tensors as save_tensors,
)
from .report import compare_runs as compare_runs, write_report as write_report
from .run import evaluate_case as evaluate_case, run_case as run_case
from .rundir import OpenRun as OpenRun, RunDirectory as RunDirectory, open as open
from .solve import Elasticity as Elasticity, SolverOptions as SolverOptions
from .verify import solve_full_scale as solve_full_scale, unseen as unseen
