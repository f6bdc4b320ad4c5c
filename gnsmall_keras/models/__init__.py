"""The networks, their fused form and their files."""
