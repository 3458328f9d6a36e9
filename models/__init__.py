"""Subjects: models with real weights and real data, whose numerics are worth studying."""
