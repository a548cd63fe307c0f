"""Query strategies, which choose the questions: one file per strategy."""
