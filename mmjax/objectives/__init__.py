"""Objectives: pure functions on arrays, returning (loss, metrics). No parameters inside."""
