"""The execution of stages."""
