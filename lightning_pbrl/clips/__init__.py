"""Clips of segments for people and models that answer questions: drawn by what the data hold, encoded, kept in a cache."""
