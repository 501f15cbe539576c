from .loads import LoadCase as LoadCase
from .problem import Problem as Problem, Role as Role, build_problem as build_problem
from .tensor_field import load_tensors as load_tensors, save_tensors as save_tensors
