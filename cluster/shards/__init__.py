"""What a shard is: its format, the records that name it, the order it is read in, and the reader."""
