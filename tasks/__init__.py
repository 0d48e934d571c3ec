"""One idempotent verb each; a task acts, reads back and returns its proof."""
