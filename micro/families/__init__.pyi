from .families import FAMILIES as FAMILIES, Family as Family, family as family
