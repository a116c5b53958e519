"""The endpoint: a bundle behind HTTP, a budget per request. Needs the extra `serve`; `quee serve BUNDLE` starts it."""
