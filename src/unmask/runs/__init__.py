"""Names of 0.1 that pickled jobs in a queue still hold."""
