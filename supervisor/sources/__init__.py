"""Sources report facts. They decide nothing."""
