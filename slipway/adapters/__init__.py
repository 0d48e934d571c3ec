"""The ports on real systems; the only code that holds clients."""
