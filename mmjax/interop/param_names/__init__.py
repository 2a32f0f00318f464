"""Names of the parameters in every format: one table a format, read in both directions."""
