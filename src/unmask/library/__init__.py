"""What `import unmask` offers: a model on disk, loaded and used in a few lines."""
