from .any_load import AnyLoadObjective as AnyLoadObjective, Worst as Worst
from .combination import Combination as Combination, Value as Value
from .compliance import ComplianceObjective as ComplianceObjective
from .objective import DistortionObjective as DistortionObjective, Objective as Objective
from .target import TargetObjective as TargetObjective
