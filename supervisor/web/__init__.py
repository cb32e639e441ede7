"""The API on the unix socket: a read-only view of the world, and orders as events."""
