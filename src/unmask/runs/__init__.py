"""Import paths of version 0.1 that pickled jobs in a queue still use."""
