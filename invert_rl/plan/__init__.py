"""What a run takes before anything is loaded: memory, operations and time, from configurations alone."""
