"""From float networks to int8 ones."""
