"""Stand-ins for the ports: small classes with state, the same promises as the real adapters."""
