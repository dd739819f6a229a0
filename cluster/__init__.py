"""The ground every process stands on: where bytes live, what a shard is, how to reach Ray, what went wrong."""
