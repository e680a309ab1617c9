"""One run's page."""
