"""What runs and files were, as lines of JSON."""
