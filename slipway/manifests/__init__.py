"""Pure builders: value objects to Kubernetes objects."""
