"""The durable middle: messages, checkpoints, gaps and deliveries, on SQLite or PostgreSQL."""
