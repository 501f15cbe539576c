from .errors import InputError as InputError, NotConverged as NotConverged
