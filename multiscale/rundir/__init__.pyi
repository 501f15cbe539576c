from .directory import RunDirectory as RunDirectory
from .opened import OpenRun as OpenRun, open as open
