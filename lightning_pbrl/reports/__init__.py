"""Reports on finished runs: metrics, statistics over seeds, figures, tables."""
