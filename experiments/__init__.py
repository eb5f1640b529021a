"""Experiments: one question each, run from the command line."""
