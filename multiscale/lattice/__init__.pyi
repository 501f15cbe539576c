from .block import Block as Block
from .contact import Contacts as Contacts, Interface as Interface
from .lattice import Lattice as Lattice
