"""Images in shards: WebDataset's tars, the Hub's Parquet, LitData's chunks, raw pixels.

Nothing in here imports torch when it is imported.
"""
