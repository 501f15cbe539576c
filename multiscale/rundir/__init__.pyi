from .directory import RunDirectory as RunDirectory
