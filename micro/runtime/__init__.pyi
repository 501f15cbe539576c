from .errors import InputError as InputError, NotConverged as NotConverged
from .gradient_check import GradientCheck as GradientCheck, check_gradient as check_gradient
from .progress import Progress as Progress, Reporter as Reporter
