"""The real tasks and rules as processes that are interleaved, stopped and killed under virtual time."""
