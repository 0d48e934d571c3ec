"""What the supervisor starts: one module a part."""
