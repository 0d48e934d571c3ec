"""A release: its record, what may follow, and when users may move. Pure rules."""
