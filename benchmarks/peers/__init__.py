"""This package beside the libraries that people use for the same job; see README.rst."""
