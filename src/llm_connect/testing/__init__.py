"""Tools for testing code that calls models: an embedded provider on loopback, and rules for other people's adapters."""

from .conformance import (
    ConformanceError,
    ConformanceReport,
    ConformanceRule,
    NotCheckedWarning,
    RuleResult,
    check_adapter,
    conformance_rules,
)
from .embedded_provider import (
    WIRE_FORMATS,
    Behaviour,
    EmbeddedProvider,
    Meter,
    MeterReading,
    ReceivedRequest,
    Tariff,
    WireFormat,
)

__all__ = [
    "WIRE_FORMATS",
    "Behaviour",
    "ConformanceError",
    "ConformanceReport",
    "ConformanceRule",
    "EmbeddedProvider",
    "Meter",
    "MeterReading",
    "NotCheckedWarning",
    "ReceivedRequest",
    "RuleResult",
    "Tariff",
    "WireFormat",
    "check_adapter",
    "conformance_rules",
]
