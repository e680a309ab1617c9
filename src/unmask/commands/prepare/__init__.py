"""Conversion of images into containers, for src/prepare.py."""
