"""Simpler kernels to study: the rungs below the fused ones."""
