"""Tools for testing code that calls models: an embedded provider on loopback."""

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
    "EmbeddedProvider",
    "Meter",
    "MeterReading",
    "ReceivedRequest",
    "Tariff",
    "WireFormat",
]
