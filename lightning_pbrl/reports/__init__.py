"""What is read back from finished runs: metrics, statistics over seeds, figures, tables."""
