"""Prices of runs, for src/plan.py: FLOPs, memory, time and disk."""
