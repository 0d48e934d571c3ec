"""Stores of backups: S3 and a folder."""
