from .evaluate import evaluate_case as evaluate_case
from .run import run_case as run_case
