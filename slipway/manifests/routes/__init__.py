"""The objects that say who gets a service's users, for each router, and what they state."""
