"""The ZeroMQ server that plays twins, its messages, sinks and client."""
