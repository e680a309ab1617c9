"""Verification that training is exact, for src/verify.py."""
