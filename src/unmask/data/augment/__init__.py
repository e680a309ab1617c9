"""Crops, colours, corruptions."""
