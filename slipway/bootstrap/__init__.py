"""The one place where ports meet their adapters: a module for each kind of work."""
