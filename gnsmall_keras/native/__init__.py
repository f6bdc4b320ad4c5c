"""GhostNets on CPUs in C++: forward, backward and inference."""
