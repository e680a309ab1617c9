"""Single images, from encoded bytes to pixels."""
