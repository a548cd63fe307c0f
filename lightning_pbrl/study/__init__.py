"""Run studies: stages for tasks, values and seeds, from one file, on one machine or a cluster."""
