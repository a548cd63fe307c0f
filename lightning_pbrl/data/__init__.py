"""Data: transitions, segments, feedback, the label store, and a reader and writer per file format."""
