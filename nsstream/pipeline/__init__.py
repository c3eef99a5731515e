"""Components, and the run that takes a trace to its twin."""
