"""Loss functions: pure functions, one formula each, with the source beside it."""
