"""The HTTP endpoint of a bundle, with a budget per request. It needs the extra `serve`; `quee serve BUNDLE` starts it."""
