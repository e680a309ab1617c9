"""One image from bytes to pixels."""
