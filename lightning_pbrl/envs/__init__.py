"""Environments: simulator adapters, rollouts, videos, scripted experts and data collection."""
