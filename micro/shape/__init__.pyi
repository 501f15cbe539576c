from .space import ShapeSpace as ShapeSpace, signed_distance as signed_distance
