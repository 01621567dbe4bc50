"""The rules that every adapter keeps, and their check; see `check_adapter`."""

from .check import check_adapter, conformance_rules
from .conformance_report import ConformanceError, ConformanceReport, NotCheckedWarning, RuleResult
from .rule import ConformanceRule

__all__ = [
    "ConformanceError",
    "ConformanceReport",
    "ConformanceRule",
    "NotCheckedWarning",
    "RuleResult",
    "check_adapter",
    "conformance_rules",
]
