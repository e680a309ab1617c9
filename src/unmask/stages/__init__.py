"""The stages of a run: plans, fingerprints, and the ledger of results."""
