"""Slipway on API servers of other versions than the sandbox's own."""
