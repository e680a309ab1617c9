"""The page of one run, and the tables that the terminal shows."""
