"""The real tasks and rules as processes, interleaved and killed under virtual time."""
