"""What made the tables of docs/: nobody needs it to use the package."""
