"""Which question to ask: one file per strategy."""
