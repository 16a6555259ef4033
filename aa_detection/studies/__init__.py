"""Code that produced the tables in docs/; not needed to use the package."""
