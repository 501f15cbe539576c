from .elasticity import Elasticity as Elasticity, SolverOptions as SolverOptions
