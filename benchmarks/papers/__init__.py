"""Findings of papers, tried again at the scale of two cores; each script uses public functions."""
