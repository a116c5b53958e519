"""Writing bundles (graphs, files, canary), and the engine that runs segments in PyTorch."""
