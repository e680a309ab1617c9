"""Tables, figures and the page, made from the ledger alone."""
