"""What may be said on the command line and in YAML; imports no torch."""
