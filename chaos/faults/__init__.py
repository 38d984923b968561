"""The faults, one module for each system."""
