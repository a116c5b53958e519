"""Plumbing: files, shards, workers, progress, threads. It knows nothing of the method."""
