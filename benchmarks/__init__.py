"""Benchmarks: ``python -m benchmarks.rounding``, ``benchmarks.sweep``, ``benchmarks.table``."""
