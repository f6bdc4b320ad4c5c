"""Pages that hold tables and figures."""
