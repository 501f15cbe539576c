from .command import export as export
from .mesh.stl import write_stl as write_stl
from .volume.vti import read_vti as read_vti, write_vti as write_vti
