"""One HTTP exchange at a time, bounded in time and size; private."""
