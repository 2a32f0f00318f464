"""From sources to batches: order, examples, transforms, batches."""
