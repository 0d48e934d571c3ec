"""The backup engine: content-addressed chunks, manifests written last, restores that are proved."""
