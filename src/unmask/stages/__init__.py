"""What a run does, under which fingerprint, filed in which ledger."""
