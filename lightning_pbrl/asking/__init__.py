"""Asking: the questions of a run, chosen, answered and kept in rounds; knows neither Lightning nor any method."""
