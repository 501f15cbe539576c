from .extreme import Plan as Plan, explore as explore
from .sequence import Sequence as Sequence, interpolate as interpolate
