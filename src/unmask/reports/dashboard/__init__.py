"""W&B's workspace and reports as code: how the project's runs are looked at there."""
