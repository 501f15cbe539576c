from .distance import signed_distance as signed_distance
from .space import ShapeSpace as ShapeSpace
