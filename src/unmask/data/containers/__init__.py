"""Images in shards: tar (WebDataset), Parquet (as on the Hub), LitData's chunks, raw pixels. Nothing imports torch."""
