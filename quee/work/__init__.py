"""Infrastructure that does not depend on the method: files, shards, workers, progress, threads."""
