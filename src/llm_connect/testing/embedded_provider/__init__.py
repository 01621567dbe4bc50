"""A model provider on loopback; see `EmbeddedProvider`."""

from .behaviour import Behaviour
from .meter import Meter, MeterReading, Tariff
from .provider import EmbeddedProvider
from .received import WIRE_FORMATS, ReceivedRequest, WireFormat

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
