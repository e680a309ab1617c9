"""src/plan.py: prices."""
