"""What a user may type on the command line and in YAML, and how it is checked.

Nothing here imports torch: a wrong config is answered at once.
"""
