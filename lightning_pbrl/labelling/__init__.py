"""People as teachers: the labelling page and what it reads and writes."""
