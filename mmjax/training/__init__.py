"""The trainer: state, optimizer, step, loop, checkpoints, logs."""
