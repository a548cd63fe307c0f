"""Data modules: data on disk to the Trainer, and the episodes a policy is judged on."""
