"""The engine that obtains, caches and refreshes tokens; private."""
