"""What `topgraft export` can write, one file each."""
