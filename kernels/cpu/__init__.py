"""Tuned NumPy versions of ops: blocks that stay in cache, no temporaries. Each registers itself on import."""
