"""The bench: how fast `retl run` is on this machine, and where the time goes."""
