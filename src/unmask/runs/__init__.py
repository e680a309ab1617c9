"""Configs, fingerprints, the ledger and the execution of stages."""
