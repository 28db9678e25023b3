"""clockd: push the time, and telemetry, to Perspective Broker clients, each at the rate it chose."""

__version__ = "0.1.0"
