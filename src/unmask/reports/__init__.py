"""Tables, figures and pages, made from the ledger and experiments/."""
