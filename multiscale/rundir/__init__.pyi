from .directory import RunDirectory as RunDirectory
from .reader import Run as Run
