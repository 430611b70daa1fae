"""What samples are worth beside data: pure functions on rows of numbers, which know no model and no run."""
