"""Pages of the ledger: all runs, and one page a sweep."""
