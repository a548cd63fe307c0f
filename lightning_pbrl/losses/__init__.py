"""Pure functions, one formula each, with the source beside it."""
