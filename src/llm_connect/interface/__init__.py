"""The interface of callers and of adapter authors: configs, adapters, streams and metering."""
