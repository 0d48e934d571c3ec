"""The load engine and its measures."""
