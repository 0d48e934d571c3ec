"""Typed settings and credentials, editable in the Prefect UI."""
