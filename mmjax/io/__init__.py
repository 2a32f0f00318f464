"""Files and folders, local or remote: paths, readers, locks, caches."""
