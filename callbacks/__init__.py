"""Callbacks around learning: queries, relabelling, videos, figures."""
