"""The rules that every adapter keeps, and their check; see `check_adapter`."""

from ._check import check_adapter, conformance_rules
from ._report import ConformanceError, ConformanceReport, NotCheckedWarning, RuleResult
from ._rule import ConformanceRule

__all__ = [
    "ConformanceError",
    "ConformanceReport",
    "ConformanceRule",
    "NotCheckedWarning",
    "RuleResult",
    "check_adapter",
    "conformance_rules",
]
