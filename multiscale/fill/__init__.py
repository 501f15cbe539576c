"""A cell for every element: sources of cells, groups of elements, the choice among candidates."""
