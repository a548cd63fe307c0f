"""Transitions, segments, feedback records, the label store, and one reader or writer per file format."""
