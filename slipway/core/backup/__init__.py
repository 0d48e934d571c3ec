"""Backups: where files are cut, what a manifest states, what is kept, what may be removed."""
