"""The wiring of nsstream: command line, configuration and service; the only place that knows every room."""
