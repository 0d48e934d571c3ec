"""Model tests: integrity, safety scan, quality on golden prompts."""
