"""A model provider on loopback; see `EmbeddedProvider`."""

from ._behaviour import Behaviour
from ._meter import Meter, MeterReading, Tariff
from ._provider import EmbeddedProvider
from ._received import WIRE_FORMATS, ReceivedRequest, WireFormat

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
