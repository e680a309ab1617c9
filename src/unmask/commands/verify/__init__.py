"""src/verify.py: a run that was interrupted ends as one that was not."""
