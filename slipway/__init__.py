"""Takes a new model version from the registry to live traffic on Kubernetes, and back."""
