"""Evaluation suites: many datasets and tasks in one run."""
