"""The exact judge of made worlds."""

from kinema_metrics.world.accuracy import WorldAccuracy, interval
from kinema_metrics.world.judge import ATTRIBUTES, Judge, Reading

__all__ = ["ATTRIBUTES", "Judge", "Reading", "WorldAccuracy", "interval"]
